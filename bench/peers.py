"""What peers do for the same result: ``python -m bench.peers TASK BASE OUT [ADAPTER]``."""

from __future__ import annotations

import sys
from typing import Any

SHARD = "550MB"
"""Largest file that transformers may write, so that it writes about eight as the base has."""


def main() -> None:
    """Run one task."""
    task, *given = sys.argv[1:]
    {"resize": _resize, "merge": _merge, "lora": _lora}[task](*given)


def _base(path: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)


def _tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def _resize(base: str, out: str) -> None:
    """Add four tokens; without the covariance that transformers draws new rows from."""
    from bench.checkpoint import NEW

    model, tokenizer = _base(base), _tokenizer(base)
    tokenizer.add_special_tokens({"additional_special_tokens": list(NEW)})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(out, max_shard_size=SHARD)
    tokenizer.save_pretrained(out)


def _merge(base: str, out: str, adapter: str) -> None:
    from peft import PeftModel

    model = PeftModel.from_pretrained(_base(base), adapter).merge_and_unload()
    model.save_pretrained(out, max_shard_size=SHARD)
    _tokenizer(base).save_pretrained(out)


def _lora(base: str, out: str) -> None:
    from peft import LoraConfig, get_peft_model

    from bench.checkpoint import TARGETS

    config = LoraConfig(r=16, lora_alpha=32, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    get_peft_model(_base(base), config).save_pretrained(out)


if __name__ == "__main__":
    main()
