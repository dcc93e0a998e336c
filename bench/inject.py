"""Inject LoRA into a Llama-shaped model on meta: ours beside PEFT (goals, row 1)."""

from __future__ import annotations

from typing import Any

import torch

from bench.rounds import rounds

GOAL = 1 / 30
"""Of PEFT's better mode."""

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def run(*, quick: bool = False) -> dict[str, Any]:
    """Time placing adapters on every linear of a 32- and an 80-layer model."""
    torch.set_num_threads(1)
    rows, verdicts = [], []
    for layers in (32,) if quick else (32, 80):
        times = _times(layers, 3 if quick else 7)
        better = min(times["peft"]["median"], times["peft low_cpu_mem"]["median"])
        ours = times["surgery"]["median"]
        rows += [{"layers": layers, "what": name, **time} for name, time in times.items()]
        share = ours / better
        verdicts.append(
            f"{layers} layers, {7 * layers} targets: {share:.4f} of PEFT's better mode (goal "
            f"{GOAL:.4f}: {'met' if share <= GOAL else 'missed'}), "
            f"{ours / times['peft']['median']:.4f} of its default"
        )
    return {"what": "inject LoRA on meta, CPU ms", "rows": rows, "verdicts": verdicts}


def _times(layers: int, count: int) -> dict[str, dict[str, float]]:
    import surgery

    path = [f"**.{name}" for name in TARGETS]
    step = {"use": "lora", "at": {"path": path}, "with": {"rank": 16, "alpha": 32}}

    def ours(model: Any) -> None:
        surgery.apply(model, [step])

    def finding(model: Any) -> None:
        from surgery.anatomy.walk import walk

        walk(model, trace=False)

    return rounds(
        {
            "surgery": ours,
            "peft": lambda model: _peft(model, False),
            "peft low_cpu_mem": lambda model: _peft(model, True),
            "structure": finding,
            "one pass over modules": lambda model: list(model.modules()),
        },
        count,
        prepare=lambda: _model(layers),
    )


def _peft(model: Any, low: bool) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=16, lora_alpha=32, target_modules=list(TARGETS))
    get_peft_model(model, config, low_cpu_mem_usage=low)


def _model(layers: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64}
    with torch.device("meta"):
        return LlamaForCausalLM(
            LlamaConfig(num_hidden_layers=layers, num_key_value_heads=8, **shape)
        )
