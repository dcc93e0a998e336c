"""Rehearse a forward of a 7B Llama's shape on meta, beside running all of it (goals, row 8)."""

from __future__ import annotations

from typing import Any

import torch

from bench.rounds import rounds

TOKENS = 512
GOAL = 1 / 10


def run(*, quick: bool = False) -> dict[str, Any]:
    """Time the rehearsal, a whole forward on meta, and one with fake tensors."""
    torch.set_num_threads(1)
    model, broken = _model(), _model()
    _break(broken)
    times = rounds(_ways(model), 3 if quick else 9)
    share = times["rehearsal"]["median"] / times["meta forward"]["median"]
    same = [_verdict(one, fold=True) == _verdict(one, fold=False) for one in (model, broken)]
    return {
        "what": f"preflight of a 7B Llama, {TOKENS} tokens, CPU ms",
        "rows": [{"what": name, **time} for name, time in times.items()],
        "verdicts": [
            f"{share:.3f} of the whole meta forward "
            f"(goal {GOAL:.3f}: {'met' if share <= GOAL else 'missed'})",
            f"verdicts equal to those of all layers, whole and broken in layer 20: {all(same)}",
        ],
    }


def _ways(model: Any) -> dict[str, Any]:
    from surgery.anatomy.rehearse import rehearse

    ids = torch.zeros((1, TOKENS), dtype=torch.long, device="meta")

    def plain() -> None:
        with torch.no_grad():
            model(input_ids=ids)

    def fake() -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            model(input_ids=torch.zeros((1, TOKENS), dtype=torch.long, device="meta"))

    return {
        "rehearsal": lambda: rehearse(model, {"input_ids": ids}),
        "rehearsal of all layers": lambda: rehearse(model, {"input_ids": ids}, fold=False),
        "meta forward": plain,
        "fake tensors": fake,
    }


def _verdict(model: Any, *, fold: bool) -> Any:
    from surgery.anatomy.rehearse import rehearse

    ids = torch.zeros((1, TOKENS), dtype=torch.long)
    return rehearse(model, {"input_ids": ids}, fold=fold)


def _break(model: Any) -> None:
    with torch.device("meta"):
        model.model.layers[20].mlp.up_proj = torch.nn.Linear(4096, 11000, bias=False)


def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig()).eval()
