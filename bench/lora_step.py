"""A step of LoRA in whole Llama layers: over the frozen base, and beside PEFT (goals, row 3)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.rounds import rounds

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA, TOKENS = 16, 32, 1024
BASE, OURS, PEFT, PEFT_LOW = "frozen base", "surgery", "peft default", "peft base dtype"
PLAIN, LEAN = "surgery, plain form", "surgery, lean"
GOALS = {BASE: 1.10, PEFT_LOW: 0.92, PEFT: 0.70}
"""Our time as a share of each at most; of PEFT's default in half precision alone."""


def run(*, quick: bool = False) -> dict[str, Any]:
    """Time forward and backward in bfloat16 and in float32, and compare gradients and memory."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    verdicts, tokens = [], 256 if quick else TOKENS
    for kind in (torch.bfloat16, torch.float32):
        width = _width(kind, quick)
        kinds = {
            name: build for name, build in _builders(kind).items() if not quick or name != PLAIN
        }
        made = {name: build(width) for name, build in kinds.items()}
        x = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(1)).to(kind)
        times = rounds({name: _stepping(m, x) for name, m in made.items()}, 2 if quick else 9)
        kept = {name: held(model, x) for name, model in made.items()}
        wrong = errors(kind)
        for name, time in times.items():
            rows.append(
                {
                    "dtype": str(kind).removeprefix("torch."), "width": width, "what": name, **time,
                    "over base": round(time["median"] / times[BASE]["median"], 3),
                    "held MB": round(kept[name] / 1e6, 2),
                    "gradient error": wrong.get(name),
                }
            )  # fmt: skip
        verdicts += _verdicts(kind, times, kept, wrong)
    what = f"LoRA step, one Llama layer, all 7 linears, r {RANK}, T {tokens}, CPU ms"
    return {"what": what, "rows": rows, "verdicts": [*verdicts, _kernels()]}


def _width(kind: torch.dtype, quick: bool) -> int:
    """Give a width whose step takes about a second."""
    slow = kind != torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return 256 if slow or quick else 1024


def _kernels() -> str:
    found = torch.backends.cpu.get_cpu_capability()
    note = "bfloat16 is emulated: its slow products are the base's too" if found == "AVX2" else ""
    return f"kernels of this processor: {found}" + (f"; {note}" if note else "")


def _builders(kind: torch.dtype) -> Mapping[str, Callable[[int], nn.Module]]:
    return {
        BASE: lambda width: layers(width, kind),
        OURS: lambda width: ours(layers(width, kind)),
        PLAIN: lambda width: plain(layers(width, kind)),
        LEAN: lambda width: lean(layers(width, kind)),
        PEFT: lambda width: peft(layers(width, kind), base_dtype=False),
        PEFT_LOW: lambda width: peft(layers(width, kind), base_dtype=True),
    }


def layers(width: int, kind: torch.dtype, count: int = 1) -> nn.Module:
    """Give frozen Llama layers, the same ones at every call."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=count,
        num_attention_heads=width // 64, num_key_value_heads=max(1, width // 256), vocab_size=32,
    )  # fmt: skip
    model: nn.Module = LlamaModel(config).to(kind).requires_grad_(False)
    return model


def ours(model: nn.Module) -> nn.Module:
    """Place adapters with surgery."""
    import surgery

    step = {
        "use": "lora", "at": {"path": [f"**.{name}" for name in TARGETS]},
        "with": {"rank": RANK, "alpha": ALPHA},
    }  # fmt: skip
    surgery.apply(model, [step])
    return _stirred(model)


def plain(model: nn.Module) -> nn.Module:
    """Place adapters with surgery, in the form that autograd sees."""
    from surgery_plugins.surgeries.lora.adapters import set_fused

    set_fused(ours(model), False)
    return model


def lean(model: nn.Module) -> nn.Module:
    """Place adapters with surgery, in layers that keep less for the backward."""
    import surgery

    surgery.apply(model, [{"use": "lean"}])
    return ours(model)


def peft(model: nn.Module, *, base_dtype: bool) -> nn.Module:
    """Place adapters with PEFT, in float32 as by default, or in the base's dtype."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS))
    made: Any = get_peft_model(model, config, autocast_adapter_dtype=not base_dtype)
    return _stirred(made.base_model.model)


def adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Give what is trained by one name, whoever placed it: ``layers.0.mlp.up_proj.A``."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            path, _, rest = name.partition(".lora_")
            found[f"{path}.{'A' if rest in ('default_A', 'A.default.weight') else 'B'}"] = parameter
    return found


@torch.no_grad()
def _stirred(model: nn.Module) -> nn.Module:
    """Give all adapters the same values, which bfloat16 holds exactly."""
    for number, (_, parameter) in enumerate(sorted(adapters(model).items())):
        drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.copy_((drawn / parameter.shape[1] ** 0.5 / 4).bfloat16())
    return model


def _stepping(model: nn.Module, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss(model, x.detach().requires_grad_()).backward()

    return step


def loss(model: nn.Module, x: Tensor) -> Tensor:
    """Run the layers and give a loss; one that the last norm does not make constant."""
    out: Tensor = model(inputs_embeds=x, use_cache=False).last_hidden_state
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    probe = probe.to(out.device)
    return (out.to(torch.promote_types(out.dtype, torch.float32)) * probe).sum()


def held(model: nn.Module, x: Tensor) -> int:
    """Give the bytes that are still there after a forward for the backward, parameters apart.

    Whatever holds them: autograd, a function of its own, or hooks.
    """
    gc.collect()
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    with _Storages() as made:
        found = loss(model, x.detach().requires_grad_())
    gc.collect()
    there = (size for at, (kept, size) in made.seen.items() if at not in own and not kept.expired())
    total = sum(there)
    del found
    return total


class _Storages(TorchDispatchMode):
    """Take note of every storage that operations write to, without holding it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor):
                storage = one.untyped_storage()
                self.seen[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result


def errors(
    kind: torch.dtype, device: str = "cpu", width: int = 256, tokens: int = 128
) -> dict[str, float]:
    """Give the mean distance of all adapters' gradients from those in float64, as a share."""
    x = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(2)).to(device, kind)
    exact = _gradients(plain(layers(width, kind)).to(device).double(), x.double())
    found = {}
    for name, build in _builders(kind).items():
        if name != BASE:
            grads = _gradients(build(width).to(device), x)
            shares = [float((grads[n] - g).norm() / g.norm()) for n, g in exact.items()]
            found[name] = float(f"{sum(shares) / len(shares):.3g}")
    return found


def _gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    loss(model, x.requires_grad_()).backward()
    return {n: p.grad.double() for n, p in adapters(model).items() if p.grad is not None}


def _verdicts(
    kind: torch.dtype, times: Any, kept: Mapping[str, int], wrong: Mapping[str, float]
) -> list[str]:
    said, half = [], kind != torch.float32
    for name, goal in GOALS.items():
        if name != PEFT or half:
            share = times[OURS]["median"] / times[name]["median"]
            wanted = f"goal {goal}: {_met(share <= goal)}" if half else "goals are for bfloat16"
            said.append(f"{kind}: {share:.3f} of {name} ({wanted})")
    share = wrong[OURS] / min(wrong[PEFT], wrong[PEFT_LOW])
    said.append(f"{kind}: gradient error {share:.3f} of PEFT's better (goal 1.1: "
                f"{_met(share <= 1.1)})")  # fmt: skip
    share = kept[OURS] / min(kept[PEFT], kept[PEFT_LOW])
    said.append(f"{kind}: held activations {share:.3f} of PEFT's least (goal 1.0: "
                f"{_met(share <= 1)}), {kept[OURS] / kept[BASE]:.3f} of the base's")  # fmt: skip
    share, time = kept[LEAN] / kept[BASE], times[LEAN]["median"] / times[OURS]["median"]
    said.append(f"{kind}: lean, held activations {share:.3f} of the base's (stretch 1.0: "
                f"{_met(share <= 1)}), in {time:.3f} of the time without")  # fmt: skip
    return said


def _met(holds: bool) -> str:
    return "met" if holds else "missed"
