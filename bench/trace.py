"""Walk a Llama-shaped model on meta, beside the plain forward that it observes (goals, row 2)."""

from __future__ import annotations

from typing import Any

import torch

from bench.rounds import rounds


def run(*, quick: bool = False) -> dict[str, Any]:
    """Time the walk of 32 and of 80 layers."""
    torch.set_num_threads(1)
    rows, verdicts, walks = [], [], {}
    for layers in (32, 80):
        times = _times(layers, 3 if quick else 7)
        plain, ours = times["plain forward"]["median"], times["walk"]["median"]
        walks[layers] = ours
        rows += [{"layers": layers, "what": name, **time} for name, time in times.items()]
        verdicts.append(
            f"{layers} layers: walk {ours:.0f} ms, goal {1.5 * plain + 50:.0f} ms "
            f"(1.5 x {plain:.0f} + 50): {'met' if ours <= 1.5 * plain + 50 else 'not met'}"
        )
    verdicts.append(f"80 layers take {walks[80] / walks[32]:.2f} x the time of 32")
    return {"what": "walk on meta, CPU ms", "rows": rows, "verdicts": verdicts}


def _times(layers: int, count: int) -> dict[str, dict[str, float]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    import surgery

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers)).eval()
    ids = torch.zeros((1, 6), dtype=torch.long, device="meta")

    def plain() -> None:
        with torch.no_grad():
            model(input_ids=ids)

    return rounds({"plain forward": plain, "walk": lambda: surgery.walk(model)}, count)
