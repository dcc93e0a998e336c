"""Comparing tensors in stretches says what dense arithmetic says, and reads no more than needed."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from surgery.checkpoint import pair as pair_module
from surgery.checkpoint.compare import Change, compare
from surgery.checkpoint.dtypes import CODES
from surgery.checkpoint.manifest import write_manifest
from surgery.checkpoint.pair import Pair, same_values
from surgery.checkpoint.stored import Stored, stored_in, stored_tensors
from surgery.errors import IntegrityError, PatientError

torch.set_num_threads(1)
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def changes(before: Mapping[str, Any], after: Mapping[str, Any], **more: Any) -> list[Change]:
    return list(compare(stored_tensors(before), stored_tensors(after), **more))


def change(before: torch.Tensor, after: torch.Tensor, **more: Any) -> Change:
    (found,) = changes({"t": before}, {"t": after}, **more)
    return found


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def low(rows: int, columns: int, rank: int) -> torch.Tensor:
    return normal(rows, rank, seed=1) @ normal(rank, columns, seed=2)


@given(
    shape=st.lists(st.integers(1, 9), min_size=0, max_size=4),
    kinds=st.tuples(st.sampled_from(FLOATS), st.sampled_from(FLOATS)),
    block=st.integers(1, 50),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_blocks_of_any_size_say_what_dense_arithmetic_says(
    shape: list[int], kinds: tuple[torch.dtype, torch.dtype], block: int, seed: int
) -> None:
    old = normal(*shape, seed=seed, dtype=kinds[0])
    new = (old.double() + normal(*shape, seed=seed + 1).double() * 0.1).to(kinds[1])
    assume(kinds[0] != kinds[1] or not torch.equal(old, new))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_module, "BLOCK", block)
        found = change(old, new)
    dense = new.double() - old.double()
    assert found.compared == old.numel()
    assert found.differing == int((dense != 0).sum())
    assert found.norm == pytest.approx(float(dense.norm()), rel=1e-6)
    assert found.relative == pytest.approx(float(dense.norm() / old.double().norm()), rel=1e-6)
    assert found.largest == pytest.approx(float(dense.abs().max()), rel=1e-6)


@pytest.mark.parametrize("name", CODES)
def test_every_dtype_is_compared(name: str) -> None:
    kind = getattr(torch, name)
    raw = torch.arange(64, dtype=torch.uint8) % (2 if name == "bool" else 64)
    old = raw.view(kind) if name != "bool" else raw.bool()
    assert changes({"t": old}, {"t": old.clone()}) == []
    twin = raw.clone()
    twin[:8] = 1 - twin[:8] % 2
    new = twin.view(kind) if name != "bool" else twin.bool()
    found = change(old, new)
    assert found.differing > 0
    assert found.norm > 0


def test_bits_decide_equality_not_values() -> None:
    zero = torch.zeros(8)
    found = change(zero, -zero)
    assert (found.norm, found.differing, found.relative) == (0.0, 0, 0.0)
    nan = torch.full((8,), math.nan)
    assert changes({"t": nan}, {"t": nan.clone()}) == []


def test_values_that_are_not_finite_are_counted_and_left_out_of_norms() -> None:
    old, new = torch.ones(10), torch.ones(10)
    old[0], old[1], new[0], new[2], new[3] = math.nan, math.inf, math.nan, -math.inf, 3.0
    found = change(old, new)
    assert (found.nans, found.infs) == ((1, 1), (1, 1))
    assert (found.norm, found.largest, found.differing) == (2.0, 2.0, 3)
    assert found.rank is None


def test_large_and_small_numbers_neither_overflow_nor_vanish() -> None:
    old = torch.zeros(4, 4, dtype=torch.float64)
    for size in (1e200, 1e-200):
        found = change(old, torch.full((4, 4), size, dtype=torch.float64))
        assert found.norm == pytest.approx(4 * size)
        assert found.relative is None
        assert found.rank == 1
    huge = torch.full((4,), 1.7e308, dtype=torch.float64)
    found = change(-huge, huge)
    assert found.to_json()["norm"] is None


def test_another_dtype_with_equal_values_is_a_change_of_norm_zero() -> None:
    old = normal(8, 8, dtype=torch.bfloat16)
    found = change(old, old.float())
    assert (found.before[0], found.after[0], found.norm) == ("bfloat16", "float32", 0.0)
    pair = Pair(stored_tensors({"t": old})["t"], stored_tensors({"t": old.float()})["t"])
    assert same_values(pair)


def test_added_rows_leave_the_others_comparable() -> None:
    old = normal(10, 4)
    found = change(old, torch.cat([old, normal(3, 4)]))
    assert (found.compared, found.differing, found.norm) == (40, 0, 0.0)
    assert change(old, normal(10, 5)).compared == 0


@pytest.mark.parametrize(("rows", "columns", "rank"), [(200, 96, 3), (90, 300, 17), (12, 9, 2)])
def test_a_low_rank_is_found(rows: int, columns: int, rank: int) -> None:
    old = normal(rows, columns, seed=5)
    assert change(old, old + low(rows, columns, rank), energy=0.9999999).rank == rank


@pytest.mark.parametrize("shape", [(200, 150), (6, 5)])
def test_a_full_rank_is_not_called_low(shape: tuple[int, int]) -> None:
    old = normal(*shape)
    assert change(old, old + normal(*shape, seed=3)).rank is None


def test_the_rank_is_the_smallest_that_holds_the_energy() -> None:
    scales = torch.tensor([10.0, 3.0, 1.0, 0.1])
    q = torch.linalg.qr(normal(80, 4))[0]
    delta = (q * scales) @ torch.linalg.qr(normal(60, 4, seed=1))[0].mT
    whole = float(scales.square().sum())
    old = torch.zeros(80, 60)
    for rank in (1, 2, 3, 4):
        share = float(scales[:rank].square().sum()) / whole
        assert change(old, delta, energy=share - 1e-5).rank == rank


def test_experts_have_the_largest_rank_of_theirs_and_kernels_are_one_matrix() -> None:
    old = torch.zeros(3, 40, 30)
    new = torch.stack([low(40, 30, 2), torch.zeros(40, 30), low(40, 30, 4)])
    assert change(old, new, energy=0.9999999).rank == 4
    kernel = low(32, 27, 3).reshape(32, 3, 3, 3)
    assert change(torch.zeros_like(kernel), kernel, energy=0.9999999).rank == 3


def test_no_more_than_a_block_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_module, "BLOCK", 64)
    sizes = []

    def watched(one: Stored) -> Stored:
        def read(start: int, stop: int) -> torch.Tensor:
            sizes.append(stop - start)
            return one.read(start, stop)

        return replace(one, read=read)

    sides = [stored_tensors({"t": t}) for t in (normal(40, 30), normal(40, 30, seed=1))]
    list(compare(*({"t": watched(side["t"])} for side in sides)))
    assert max(sizes) <= 64


def test_a_tensor_whose_bytes_are_known_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    save_file({"w": normal(8, 8), "v": normal(8)}, tmp_path / "a" / "model.safetensors")
    write_manifest(tmp_path / "a")
    (tmp_path / "linked").mkdir()
    os.link(tmp_path / "a/model.safetensors", tmp_path / "linked/model.safetensors")
    shutil.copytree(tmp_path / "a", tmp_path / "copied")
    write_manifest(tmp_path / "copied")
    first = stored_in(tmp_path / "a")
    for other in ("linked", "copied"):
        second = stored_in(tmp_path / other)
        assert all(first[name].surely_equals(second[name]) for name in first), other
        blind = {name: replace(one, read=_fails) for name, one in second.items()}
        assert list(compare(first, blind)) == []


def _fails(start: int, stop: int) -> torch.Tensor:
    raise AssertionError("read")


def test_bytes_that_changed_after_the_manifest_are_seen(tmp_path: Path) -> None:
    save_file({"w": normal(8, 8)}, tmp_path / "model.safetensors")
    write_manifest(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "b")
    file = tmp_path / "b" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    later = (tmp_path / "b/surgery.manifest.json").stat().st_mtime_ns + 10**9
    os.utime(file, ns=(later, later))
    (found,) = compare(stored_in(tmp_path), stored_in(tmp_path / "b"))
    assert found.differing == 1


def test_progress_counts_the_bytes_that_are_read() -> None:
    seen: list[tuple[int, int]] = []
    old = {"a": torch.zeros(10), "b": torch.zeros(5)}
    changes(old, {**old, "a": torch.ones(10)}, progress=lambda *one: seen.append(one))
    assert seen == [(0, 60), (40, 60), (60, 60)]


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PatientError, match="nothing there"):
        stored_in(tmp_path / "missing")
    torch.save({"step": 3}, tmp_path / "state.pt")
    with pytest.raises(PatientError, match="tensors by name"):
        stored_in(tmp_path / "state.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(PatientError, match="tensors by name"):
        stored_in(tmp_path / "list.pt")
    torch.save({"w": torch.zeros(1, dtype=torch.complex128)}, tmp_path / "odd.pt")
    with pytest.raises(PatientError, match="dtypes that safetensors have"):
        stored_in(tmp_path / "odd.pt")
    for number in (1, 2):
        torch.save({"w": torch.zeros(1)}, tmp_path / f"pytorch_model-{number}.bin")
    with pytest.raises(IntegrityError, match="one tensor of this name"):
        stored_in(tmp_path)
