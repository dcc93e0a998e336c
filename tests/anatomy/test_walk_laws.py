"""Laws of the walk."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import surgery
from surgery.anatomy.site import Anatomy

transformers = pytest.importorskip("transformers")

TOKENS: dict[str, Any] = {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHORT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION: dict[str, Any] = {**SHORT, "intermediate_size": 32, "image_size": 16, "patch_size": 8}
LLAMA: dict[str, Any] = {
    **TOKENS, **SHORT, "num_key_value_heads": 2, "intermediate_size": 32, "model_type": "llama",
}  # fmt: skip


def llama(**options: Any) -> nn.Module:
    data = {k: v for k, v in {**LLAMA, **options}.items() if k != "model_type"}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**data)).eval()


def on_meta(name: str, config: Any) -> nn.Module:
    with torch.device("meta"):
        return getattr(transformers, name)._from_config(config).eval()


def summary(anatomy: Anatomy) -> list[Any]:
    return [(s.path, s.parameter, s.roles, dict(s.rows), s.layer, s.tower) for s in anatomy]


def tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def everything(model: nn.Module) -> list[Any]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [
        (
            path, id(m), type(m), m.training, list(m.__dict__),
            [(n, id(t), t._version, t.requires_grad) for n, t in tensors(m)],
            [len(getattr(m, hook)) for hook in hooks],
        )
        for path, m in model.named_modules(remove_duplicate=False)
    ]  # fmt: skip


def raising(*_: object) -> None:
    raise ValueError("broken")


@pytest.mark.parametrize("breaks", [False, True])
def test_the_model_is_left_as_it_was(breaks: bool) -> None:
    model = llama().train()
    if breaks:
        model.lm_head.forward = raising
    before, state = everything(model), torch.get_rng_state()
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    surgery.walk(model)
    assert everything(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(values[n], t) for n, t in model.state_dict().items())


def test_a_model_on_meta_reads_as_with_weights() -> None:
    meta = on_meta("LlamaForCausalLM", llama().config)
    assert summary(surgery.walk(meta)) == summary(surgery.walk(llama()))
    assert all(p.is_meta for p in meta.parameters())


def test_adapters_change_nothing_in_what_is_read() -> None:
    model = llama()
    before = summary(surgery.walk(model))
    step = {"use": "lora", "at": {"role": ["attention.q", "mlp.down", "embedding"]}}
    with surgery.apply(model, step):
        assert summary(surgery.walk(model)) == before


def rename(model: nn.Module, chance: random.Random) -> dict[str, str]:
    """Rename every module; numbered ones stay. Give the new path of each old one."""
    for module in list(model.modules()):
        names = {n: n if n.isdecimal() else f"m{chance.randrange(10**9)}" for n in module._modules}
        for old in names:
            if old != names[old]:
                module.__dict__.setdefault("_renamed", {})[old] = names[old]
    paths = {}
    for path, _ in model.named_modules():
        module, parts = model, []
        for part in path.split(".") if path else []:
            parts.append(module.__dict__.get("_renamed", {}).get(part, part))
            module = module._modules[part]
        paths[path] = ".".join(parts)
    for module in list(model.modules()):
        table = module.__dict__.pop("_renamed", {})
        module._modules = {table.get(n, n): m for n, m in module._modules.items()}
        for old, new in table.items():
            object.__setattr__(module, old, module._modules[new])
    return paths


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6))
def test_names_do_not_matter(seed: int) -> None:
    model = llama()
    before = {site.path: (site.roles, dict(site.rows)) for site in surgery.walk(model)}
    paths = rename(model, random.Random(seed))
    after = {site.path: (site.roles, dict(site.rows)) for site in surgery.walk(model)}
    for old, new in paths.items():
        assert after[new] == before[old], old


def test_layers_and_module_roles() -> None:
    anatomy = surgery.walk(llama())
    found = anatomy.by_path
    assert found["model.layers.1"].roles == {"layer"}
    assert found["model.layers.1.self_attn"].roles == {"attention"}
    assert found["model.layers.1.mlp"].roles == {"mlp"}
    assert found["lm_head"].roles == {"head"}
    layer = found["model.layers.1.mlp.gate_proj"].layer
    assert layer is not None
    assert (layer.number, layer.container, layer.count) == (1, "model.layers", 2)
    assert found["model.norm"].layer is None
    counts = anatomy.role_counts()
    assert (counts["norm"], counts["embedding"], counts["mlp.gate"]) == (5, 1, 2)


def towers(anatomy: Anatomy) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for site in anatomy:
        if site.layer and "attention.q" in site.roles:
            found.setdefault(str(site.tower), set()).add(site.layer.container)
    return found


def test_towers_of_a_pair_of_encoders() -> None:
    config = transformers.CLIPConfig(
        text_config={**TOKENS, **SHORT, "intermediate_size": 32}, vision_config=VISION
    )
    anatomy = surgery.walk(on_meta("CLIPModel", config))
    assert towers(anatomy) == {
        "text": {"text_model.encoder.layers"},
        "vision": {"vision_model.encoder.layers"},
    }
    assert [s.path for s in anatomy if s.parameter and s.tower is None] == ["logit_scale"]
    assert all(s.tower == s.path.split("_")[0] for s in anatomy if "_model." in s.path)


def test_towers_of_a_vision_language_model() -> None:
    config = transformers.LlavaConfig(
        text_config=LLAMA, vision_config={**VISION, "model_type": "clip_vision_model"},
        image_token_id=31, image_seq_length=4,
    )  # fmt: skip
    anatomy = surgery.walk(on_meta("LlavaForConditionalGeneration", config))
    found = towers(anatomy)
    assert set(found) == {"text", "vision"}
    assert {len(containers) for containers in found.values()} == {1}
    assert anatomy.role_counts()["attention.q"] == 4
    assert anatomy.role_counts()["resampler"] >= 2


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("T5Model", {"d_model": 16, "d_ff": 32, "d_kv": 4, "num_layers": 2, "num_heads": 4}),
        ("BartModel", {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2}),
        ("WhisperModel", {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2}),
    ],
)
def test_towers_of_encoder_decoders(name: str, config: dict[str, Any]) -> None:
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    options = config if name == "T5Model" else {**config, **heads}
    made = getattr(transformers, name.replace("Model", "Config"))(**options)
    anatomy = surgery.walk(on_meta(name, made))
    assert set(towers(anatomy)) == {"encoder", "decoder"}
    assert anatomy.role_counts()["attention.q"] == 2 + 2 * 2


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("MambaModel", transformers.MambaConfig(**TOKENS, hidden_size=16, num_hidden_layers=2)),
        ("ResNetModel", transformers.ResNetConfig(depths=[2, 2], hidden_sizes=[8, 16])),
        ("RegNetModel", transformers.RegNetConfig(depths=[1, 1], hidden_sizes=[8, 16])),
        ("MobileNetV2Model", transformers.MobileNetV2Config(image_size=32)),
    ],
)
def test_no_false_roles(name: str, config: Any) -> None:
    counts = surgery.walk(on_meta(name, config)).role_counts()
    assert not {r for r in counts if r.startswith(("attention", "mlp"))}, counts


def test_segmenting_models_are_read_whole() -> None:
    for name in ("Sam2Model", "Sam3Model"):
        anatomy = surgery.walk(
            on_meta(name, getattr(transformers, name.replace("Model", "Config"))())
        )
        counts = anatomy.role_counts()
        parts = [counts[f"attention.{p}"] for p in ("q", "k", "v", "proj")]
        assert len(set(parts)) == 1
        assert parts[0] > 10
        assert anatomy.notes == ()


class ReadsItsEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(9, 4), nn.Linear(4, 4)
        self.again = self.body

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.body(self.embed(input)), self.embed.weight)


def test_a_weight_that_is_read_without_its_module_is_marked() -> None:
    anatomy = surgery.walk(ReadsItsEmbedding(), {"input": torch.zeros(1, 3, dtype=torch.long)})
    embed = anatomy.by_path["embed"]
    assert embed.direct
    assert {"embedding", "head"} <= embed.roles
    assert not anatomy.by_path["body"].direct


def test_a_module_under_two_names_is_one_site_with_two_paths() -> None:
    anatomy = surgery.walk(ReadsItsEmbedding(), {"input": torch.zeros(1, 3, dtype=torch.long)})
    assert anatomy.by_path["body"] is anatomy.by_path["again"]
    assert anatomy.by_path["again"].paths == ("body", "again")
    assert sum("body" in site.paths for site in anatomy) == 1


def test_a_tied_head_is_a_site_of_its_own() -> None:
    anatomy = surgery.walk(llama(tie_word_embeddings=True))
    assert anatomy.by_path["lm_head"].roles == {"head"}
    assert anatomy.by_path["model.embed_tokens"].roles == {"embedding"}


class Stubborn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.o_thing = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, something: object) -> object:
        raise ValueError("only on weekdays")


def test_what_cannot_be_observed_rests_on_names_and_says_so() -> None:
    anatomy = surgery.walk(Stubborn(), {"something": 1})
    assert anatomy.by_path["q_proj"].evidence == "names"
    assert anatomy.by_path["q_proj"].roles == {"attention.q"}
    assert anatomy.by_path["o_thing"].roles == frozenset()
    assert any("only on weekdays" in note for note in anatomy.notes)
    assert any("by their names alone" in note for note in anatomy.notes)


def test_families_hint_where_nothing_is_seen_and_disagreement_is_noted() -> None:
    class Family:
        name = "stubborn"
        roles = ("stubborn.part",)

        def matches(self, model: nn.Module) -> bool:
            return isinstance(model, Stubborn | transformers.LlamaForCausalLM)

        def hints(self, model: nn.Module) -> dict[str, frozenset[str]]:
            return {
                "o_thing": frozenset(["stubborn.part"]),
                "model.layers.0.self_attn.q_proj": frozenset(["mlp.up"]),
            }

    anatomy = surgery.walk(Stubborn(), {"something": 1}, families=[Family()])
    assert anatomy.by_path["o_thing"].roles == {"stubborn.part"}
    assert anatomy.by_path["o_thing"].evidence == "family"
    seen = surgery.walk(llama(), families=[Family()])
    assert seen.by_path["model.layers.0.self_attn.q_proj"].roles == {"attention.q"}
    assert any("stubborn says mlp.up" in note for note in seen.notes)


def test_the_bare_structure_has_no_roles() -> None:
    anatomy = surgery.walk(llama(), trace=False)
    assert not anatomy.traced
    assert all(not site.roles for site in anatomy)
    assert {s.parameter for s in anatomy if s.parameter} == {
        n for n, _ in llama().named_parameters()
    }
