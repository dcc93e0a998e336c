"""An 8B-shaped Llama on a GPU: LoRA steps over the frozen base and beside PEFT, one command.

``python -m bench gpu``; weights are random, bfloat16. Correct first: gradients against float64 on
a small shape of the same classes. Times are of CUDA events, medians of interleaved rounds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from bench.lora_step import ALPHA, BASE, GOALS, LEAN, OURS, PEFT, PEFT_LOW, RANK, TARGETS, errors

SHAPE = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip
LENGTHS = (2048, 8192)
Device = torch.device


def run(*, quick: bool = False) -> dict[str, Any]:
    """Check gradients, then time steps, injection and merge, with peak memory.

    Raises:
        SystemExit: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise SystemExit("bench gpu: expected a CUDA device, found none")
    shape = {**SHAPE, "num_hidden_layers": 8} if quick else SHAPE
    found = measured(Device("cuda"), shape, LENGTHS, 3 if quick else 7)
    return {**found, "card": torch.cuda.get_device_name()}


def measured(device: Device, shape: dict[str, int], lengths: Any, count: int) -> dict[str, Any]:
    """Give rows and verdicts for a Llama of a shape on a device.

    Args:
        device: where; times of a device without CUDA are of the wall clock.
        shape: sizes of the configuration.
        lengths: tokens of one sequence.
        count: rounds that are counted, after one that is not.
    """
    wrong = errors(torch.bfloat16, str(device))
    rows, verdicts = [], []
    for tokens in lengths:
        steps = _steps(device, shape, tokens, count)
        rows += [{"tokens": tokens, "what": name, **row} for name, row in steps.items()]
        ours = steps[OURS]["median"]
        for name, goal in GOALS.items():
            share = ours / steps[name]["median"]
            met = "met" if share <= goal else "missed"
            verdicts.append(f"T {tokens}: {share:.3f} of {name} (goal {goal}: {met})")
    share = wrong[OURS] / min(wrong[PEFT], wrong[PEFT_LOW])
    verdicts.append(
        f"gradient error {share:.3f} of PEFT's better (goal 1.1: "
        f"{'met' if share <= 1.1 else 'missed'})"
    )
    rows += [{"what": name, "median": once, "min": once, "max": once}
             for name, once in _once(device, shape).items()]  # fmt: skip
    what = f"8B-shaped Llama ({shape['num_hidden_layers']} layers), bfloat16, r {RANK}, ms"
    return {"what": what, "rows": rows, "verdicts": verdicts}


def _llama(device: Device, shape: dict[str, int], kind: torch.dtype = torch.bfloat16) -> nn.Module:
    """Build a frozen Llama with random weights, where it will stand."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        with device:
            model: nn.Module = LlamaForCausalLM(LlamaConfig(**shape))
    finally:
        torch.set_default_dtype(before)
    return model.requires_grad_(False)


@contextmanager
def _adapted(name: str, model: nn.Module) -> Iterator[nn.Module]:
    """Place adapters as one of the candidates does, and take them away again."""
    if name == BASE:
        yield model
    elif name in (OURS, LEAN):
        done = _surgery(model, lean=name == LEAN)
        yield model
        done.undo()
    else:
        made = _peft(model, low=name == PEFT_LOW)
        yield made
        made.unload()


def _surgery(model: nn.Module, *, lean: bool = False) -> Any:
    import surgery

    at = {"path": [f"**.{name}" for name in TARGETS]}
    lora = {"use": "lora", "at": at, "with": {"rank": RANK, "alpha": ALPHA}}
    return surgery.apply(model, [lora, {"use": "lean"}] if lean else [lora])


def _peft(model: nn.Module, *, low: bool) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS))
    made: Any = get_peft_model(model, config, autocast_adapter_dtype=not low)
    return made.to(next(model.parameters()).device)


def _steps(device: Device, shape: dict[str, int], tokens: int, count: int) -> dict[str, Any]:
    """Time steps of each candidate on the same model; each round runs all of them."""
    model = _llama(device, shape)
    ids = torch.randint(0, shape["vocab_size"], (1, tokens), device=device)
    x = model.get_input_embeddings()(ids).detach()  # type: ignore[operator]
    times: dict[str, list[float]] = {name: [] for name in (BASE, OURS, LEAN, PEFT, PEFT_LOW)}
    peaks: dict[str, float] = {}
    for number in range(count + 1):
        for name, seen in times.items():
            with _adapted(name, model) as adapted:
                _step(adapted, x, ids)
                _reset(device)
                spent = _timed(device, lambda on=adapted: _step(on, x, ids))
                peaks[name] = _peak(device)
            if number:
                seen.append(spent)
    del model
    _reset(device)
    base = median(times[BASE])
    return {
        name: {
            "median": median(seen), "min": min(seen), "max": max(seen),
            "over base": round(median(seen) / base, 3), "peak GB": round(peaks[name], 2),
            "tokens/s": round(tokens / median(seen) * 1e3),
        }
        for name, seen in times.items()
    }  # fmt: skip


def _step(model: nn.Module, x: Tensor, ids: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    given = x.detach().requires_grad_()
    model(inputs_embeds=given, labels=ids, use_cache=False).loss.backward()


def _once(device: Device, shape: dict[str, int]) -> dict[str, float]:
    """Time what is done once: placing adapters, and folding them in."""
    import surgery

    found, model, made = {}, _llama(device, shape), []
    found["inject: surgery"] = _timed(device, lambda: _surgery(model))
    found["merge: surgery"] = _timed(device, lambda: surgery.apply(model, [{"use": "merge"}]))
    _reset(device)
    model = _llama(device, shape)
    found["inject: peft"] = _timed(device, lambda: made.append(_peft(model, low=False)))
    found["merge: peft"] = _timed(device, lambda: made[0].merge_and_unload())
    return {name: round(value, 3) for name, value in found.items()}


def _timed(device: Device, call: Callable[[], object]) -> float:
    """Give milliseconds: between two events of the device, or of the wall clock."""
    if device.type != "cuda":
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) * 1e3
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    call()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last))


def _reset(device: Device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(device: Device) -> float:
    """Give the most memory that was used since the last reset, in GB; 0 without CUDA."""
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
