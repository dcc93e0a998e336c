"""A perceiver between tower and language model: learned latents read all tokens."""

from __future__ import annotations

from typing import Any, cast, final

import torch
from torch import Tensor, nn

from surgery.errors import RefusedError
from surgery_plugins.modules.connector import Connector, library


@final
class PerceiverConnector(Connector):
    """Project tokens to the language model's width, then let latents attend to them.

    Both parts are transformers' own, ``Idefics2MLP`` and ``Idefics2PerceiverResampler``, under
    the names that ``Idefics2Connector`` gives them. Perceiver: arXiv 2103.03206.
    """

    def __init__(  # noqa: PLR0913
        self,
        in_features: int,
        out_features: int,
        hidden: int,
        latents: int,
        depth: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        act: str,
        eps: float,
    ) -> None:
        super().__init__()
        if heads % kv_heads:
            raise RefusedError("perceiver.heads", f"a multiple of kv_heads {kv_heads}", f"{heads}")
        self.in_features, self.out_features, self.latents = in_features, out_features, latents
        transformers = library("perceiver")
        parts = transformers.models.idefics2.modeling_idefics2
        config = transformers.models.idefics2.configuration_idefics2.Idefics2PerceiverConfig(
            hidden_act=act,
            hidden_size=out_features,
            rms_norm_eps=eps,
            resampler_n_latents=latents,
            resampler_depth=depth,
            resampler_n_heads=heads,
            resampler_head_dim=head_dim,
            num_key_value_heads=kv_heads,
        )
        self.modality_projection: Any = parts.Idefics2MLP(in_features, hidden, out_features, act)
        self.perceiver_resampler: Any = parts.Idefics2PerceiverResampler._from_config(config)

    def connect(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Resample ``[batch, n, in_features]`` to ``[batch, latents, out_features]``."""
        context, resampler = self.modality_projection(tokens), self.perceiver_resampler
        if attention_mask is not None:
            return cast("Tensor", resampler(context, attention_mask))
        latents = resampler.latents.expand(tokens.shape[0], -1, -1)
        for layer in resampler.layers:
            latents = layer(latents, context, attention_mask=None)
        return cast("Tensor", resampler.norm(latents))

    def out_tokens(self, n: int) -> int:
        """Give the number of latents, whatever comes in."""
        return self.latents


@final
class QFormerConnector(Connector):
    """Let learned queries attend to tokens through a Q-Former, then project them.

    The Q-Former is transformers' ``Blip2QFormerModel``; queries and projection stand beside it
    under BLIP-2's names. BLIP-2: arXiv 2301.12597.
    """

    def __init__(  # noqa: PLR0913
        self,
        in_features: int,
        out_features: int,
        queries: int,
        hidden: int,
        ffn: int,
        depth: int,
        heads: int,
        cross_every: int,
        act: str,
        eps: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.queries = in_features, out_features, queries
        blip = library("qformer").models.blip_2
        config: Any = blip.configuration_blip_2.Blip2QFormerConfig(
            hidden_size=hidden,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=ffn,
            hidden_act=act,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            layer_norm_eps=eps,
            cross_attention_frequency=cross_every,
            encoder_hidden_size=in_features,
        )
        self.query_tokens = nn.Parameter(torch.empty(1, queries, hidden))
        self.qformer: Any = blip.modeling_blip_2.Blip2QFormerModel._from_config(config)
        self.language_projection = nn.Linear(hidden, out_features)

    def connect(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Resample ``[batch, n, in_features]`` to ``[batch, queries, out_features]``."""
        queries = self.query_tokens.expand(tokens.shape[0], -1, -1)
        found = self.qformer(
            query_embeds=queries,
            encoder_hidden_states=tokens,
            encoder_attention_mask=attention_mask,
            return_dict=True,
        ).last_hidden_state
        return cast("Tensor", self.language_projection(found.to(tokens.dtype)))

    def out_tokens(self, n: int) -> int:
        """Give the number of queries, whatever comes in."""
        return self.queries
