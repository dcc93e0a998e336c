"""Laws of the selective scan: its values, its gradients, its memory, its fused twin."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from surgery_plugins.modules import mamba, scan
from surgery_plugins.modules.mamba import MambaMixer, fused_scan
from surgery_plugins.modules.scan import selective_scan

transformers = pytest.importorskip("transformers")


def arguments(length: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    u, b, c = (torch.randn(2, length, n, dtype=dtype) for n in (3, 2, 2))
    delta = torch.rand(2, length, 3, dtype=dtype) + 0.1
    a = -torch.rand(3, 2, dtype=dtype) - 0.1
    return [tensor.requires_grad_() for tensor in (u, delta, a, b, c)]


def plainly(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    state, out = torch.zeros(u.shape[0], *a.shape, dtype=u.dtype), []
    for t in range(u.shape[1]):
        added = (delta[:, t] * u[:, t])[..., None] * b[:, t, None]
        state = torch.exp(delta[:, t, :, None] * a) * state + added
        out.append((state * c[:, t, None]).sum(-1))
    return torch.stack(out, 1)


@pytest.mark.parametrize("chunk", [1, 3, 4, 64])
def test_values_and_gradients_do_not_depend_on_the_chunk(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "CHUNK", chunk)
    given = arguments(8)
    assert torch.allclose(selective_scan(*given), plainly(*given), atol=1e-12)
    wanted = torch.autograd.grad(plainly(*given).pow(2).sum(), given)
    found = torch.autograd.grad(selective_scan(*given).pow(2).sum(), given)
    assert all(torch.allclose(x, y, atol=1e-10) for x, y in zip(wanted, found, strict=True))


def test_the_gradient_is_the_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "CHUNK", 3)
    assert torch.autograd.gradcheck(selective_scan, arguments(7))


def test_what_is_kept_for_the_backward_grows_with_chunks_and_not_with_steps() -> None:
    kept: list[int] = []
    given = arguments(256)

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        selective_scan(*given)
    inputs = sum(tensor.numel() for tensor in given)
    assert sum(kept) == inputs + 256 // scan.CHUNK * 2 * 3 * 2


def mixer() -> MambaMixer:
    torch.manual_seed(0)
    module = MambaMixer(16, 24, 4, 4, 3, conv_bias=True, proj_bias=False)
    generator = torch.Generator().manual_seed(0)
    for name in mamba.FIRST:
        mamba.FIRST[name](module.dt_rank, module.get_parameter(name).data, generator)
    return module


def test_it_is_the_mixer_of_transformers_with_the_same_state_dict() -> None:
    from transformers.models.mamba.modeling_mamba import MambaMixer as Theirs

    config = transformers.MambaConfig(
        hidden_size=16, state_size=4, conv_kernel=4, time_step_rank=3, use_conv_bias=True
    )
    config.intermediate_size = 24
    theirs, ours = Theirs(config, layer_idx=0), mixer()
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(ours(tokens), theirs(tokens), atol=1e-6)


def test_the_first_values_are_those_of_the_paper() -> None:
    module = mixer()
    assert torch.allclose(module.A_log.exp(), torch.arange(1.0, 5.0).expand(24, 4))
    assert torch.equal(module.D, torch.ones(24))
    steps = torch.nn.functional.softplus(module.dt_proj.bias.detach())
    assert 0.0009 < float(steps.min()) < float(steps.max()) < 0.11
    assert float(module.dt_proj.weight.detach().abs().max()) <= 3**-0.5


def test_a_cast_can_leave_decay_and_skip_in_float32() -> None:
    module = mixer().to(torch.bfloat16)
    module.keep_wide()
    assert (module.A_log.dtype, module.D.dtype) == (torch.float32, torch.float32)
    out = module(torch.randn(1, 5, 16, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert torch.isfinite(out).all()


def test_without_mamba_ssm_there_is_no_fused_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", None)
    fused_scan.cache_clear()
    assert fused_scan() is None
    fused_scan.cache_clear()


def test_the_fused_scan_of_mamba_ssm_gets_its_own_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Any:
        assert u.shape == delta.shape == (2, 3, 8)
        assert b.shape == c.shape == (2, 2, 8)
        turned = [part.transpose(1, 2) for part in (u, delta, b, c)]
        return plainly(turned[0], turned[1], a, turned[2], turned[3]).transpose(1, 2)

    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    fake = ModuleType("mamba_ssm.ops.selective_scan_interface")
    fake.selective_scan_fn = kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    fused_scan.cache_clear()
    fast = fused_scan()
    assert fast is not None
    given = arguments(8)
    assert torch.allclose(fast(*given), selective_scan(*given), atol=1e-12)
    fused_scan.cache_clear()
