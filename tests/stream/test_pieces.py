"""Laws of tensors that are computed piece by piece: the same bits, and never whole in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from surgery.checkpoint.header import TensorEntry
from surgery.checkpoint.tensors import TensorReader
from surgery.checkpoint.writer import NewEntry, write_tensors
from surgery.errors import IntegrityError, ProofError, SurgeryError
from surgery.flow.ahead import ahead
from surgery.flow.shards import FileTask, Piece, write_file
from surgery.operate import stretches
from surgery.operate.edits import Derive
from surgery.operate.merge import Folding
from surgery.operate.slots import compute
from surgery.operate.stretches import Piecewise, Stretches
from surgery.operate.values import Held, Made, memory_for, pieces_of, values_of
from surgery_plugins.surgeries.freeze import RowSettings
from surgery_plugins.surgeries.lora.branch import LINEAR, TABLE, Branch
from surgery_plugins.surgeries.tokens.initialise import NewRow, Regrown

SHAPE = (700, 24)
SMALL = 4096
"""Bytes of a stretch in these tests: each tensor takes several."""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "STRETCH_BYTES", SMALL)
    monkeypatch.setattr("surgery_plugins.surgeries.lora.folds.BLOCK", SMALL)


def drawn(*shape: int, seed: int = 0, kind: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(kind)


def stored(folder: Path, tensor: Tensor) -> TensorEntry:
    name = str(tensor.dtype).removeprefix("torch.")
    write_tensors(folder / "w.safetensors", [("w", name, tuple(tensor.shape), lambda: tensor)])
    return TensorReader(folder / "w.safetensors").entries["w"]


def branch(rank: int = 3, strength: float = 0.7, **given: Any) -> Branch:
    names = {"adapter": "x", "leaf": "weight", "a": "a", "b": "b", "m": ""}
    sizes = {"rank": rank, "alpha": strength * rank, "scale": strength, "dropout": 0.0}
    return Branch(**{"kind": LINEAR, "out_axis": 0, **names, **sizes, **given})


def adapters() -> Iterator[tuple[str, Piecewise, tuple[Tensor, ...]]]:
    high, wide = SHAPE
    ab, turned = (drawn(3, wide), drawn(high, 3)), (drawn(3, high), drawn(wide, 3))
    m = drawn(high).abs() + 1
    ranges = {"ranges": ((5, 300), (600, 650))}
    yield "lora", Folding((branch(),)), ab
    yield "power of two", Folding((branch(strength=2.0),)), ab
    yield "two", Folding((branch(), branch(strength=-0.3))), (*ab, *ab)
    yield "dora", Folding((branch(m="m"),)), (*ab, m)
    yield "rows", Folding((branch(**ranges),)), (ab[0], drawn(345, 3))
    yield "turned", Folding((branch(out_axis=1),)), turned
    yield "turned dora", Folding((branch(out_axis=1, m="m"),)), (*turned, m[:wide])
    yield "table", Folding((branch(kind=TABLE),)), ab
    trained = RowSettings("weight", "rows", ((3, 400), (600, 601)))
    yield "trained rows", Folding((trained,)), (drawn(398, wide),)


def tables() -> Iterator[tuple[str, Piecewise, tuple[Tensor, ...]]]:
    new = (NewRow(702, "a"), NewRow(703, "b", (1, 699)), NewRow(4, "c", drawn=True))
    yield "grown", Regrown(710, 650, new), ()
    yield "shrunk", Regrown(333, 333), ()
    yield "columns", Regrown(30, 20, (NewRow(25, "a"),), axis=1), ()


CASES = [*adapters(), *tables()]
PLAIN = [one for one in CASES if one[0] in ("lora", "power of two", "rows", "turned", "table")]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("case", "call", "others"), CASES, ids=[case for case, _, _ in CASES])
def test_pieces_from_a_file_have_the_bits_of_the_whole(
    case: str, call: Any, others: tuple[Tensor, ...], kind: Any, tmp_path: Path
) -> None:
    base, dtype = drawn(*SHAPE, kind=kind), str(kind).removeprefix("torch.")
    value = Derive(("w", *map(str, range(len(others)))), call)
    shape = list(base.shape)
    if isinstance(call, Regrown):
        shape[call.axis] = call.rows
    how: Any = {"name": "w", "shape": tuple(shape), "dtype": dtype, "seed": 3}
    whole = compute(value, [base, *others], **how)
    node = Made("w", tuple(shape), dtype, value, (stored(tmp_path, base), *map(Held, others)))
    made = list(pieces_of(node, 3))
    assert torch.equal(torch.cat([piece.flatten() for piece in made]), whole.flatten())
    assert torch.equal(values_of(node, 3), whole)
    if case != "columns":
        assert len(made) > 1
    write_file(FileTask(tmp_path / "out.safetensors", (Piece("w", dtype, tuple(shape), node),), 3))
    assert torch.equal(TensorReader(tmp_path / "out.safetensors").get("w"), whole)


@pytest.mark.parametrize(("case", "call", "others"), PLAIN, ids=[case for case, _, _ in PLAIN])
def test_what_is_folded_is_what_the_formula_gives(
    case: str, call: Any, others: tuple[Tensor, ...]
) -> None:
    base = drawn(*SHAPE)
    a, b = others
    change = call.settings[0].strength * (b @ a)
    wanted = base.clone()
    if case == "rows":
        wanted[torch.cat([torch.arange(5, 300), torch.arange(600, 650)])] += change
    else:
        wanted += change.T if case == "turned" else change
    found = call(base, *others, generator=torch.Generator())
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_table_larger_than_memory_takes_little(tmp_path: Path) -> None:
    value = Derive(("w",), Regrown(10**9 + 4, 10**9, (NewRow(10**9, "a"),)))
    entry = TensorEntry("w", "bfloat16", (10**9, 4096), 0, 0, tmp_path / "w.safetensors")
    assert memory_for(Made("w", (10**9 + 4, 4096), "bfloat16", value, (entry,))) <= 100e6


def test_new_rows_are_means_of_the_rows_of_tokens() -> None:
    base = drawn(*SHAPE)
    grown = Regrown(702, 600, (NewRow(700, "a"), NewRow(701, "b", (3, 5))))
    made = grown(base, generator=torch.Generator())
    assert torch.equal(made[:700], base)
    torch.testing.assert_close(made[700], base[:600].mean(0))
    torch.testing.assert_close(made[701], base[[3, 5]].mean(0))


def test_a_wrong_fold_is_an_error_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def wrong(block: Tensor, kept: Tensor, folds: Any, n: int, start: int) -> None:
        block.copy_(kept)

    monkeypatch.setattr("surgery_plugins.surgeries.lora.folding._fold", wrong)
    value = Derive(("w", "a", "b"), Folding((branch(),)))
    sources = (stored(tmp_path, drawn(*SHAPE)), Held(drawn(3, 24)), Held(drawn(700, 3)))
    node = Made("w", SHAPE, "float32", value, sources)
    with pytest.raises(ProofError, match="rounding the weight once"):
        write_file(FileTask(tmp_path / "out.safetensors", (Piece("w", "float32", SHAPE, node),)))
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("count", [699, 701])
def test_another_number_of_elements_is_refused(count: int, tmp_path: Path) -> None:
    class Short:
        def __call__(self, old: Tensor, generator: Any) -> Tensor:
            raise AssertionError

        def pieces(self, first: Stretches, *, generator: Any) -> Iterator[Tensor]:
            yield torch.zeros(count, 24)

    entry = stored(tmp_path, drawn(*SHAPE))
    node = Made("w", SHAPE, "float32", Derive(("w",), Short()), (entry,))
    with pytest.raises(SurgeryError, match="16800"):
        list(pieces_of(node, 0))
    made = NewEntry("w", "float32", SHAPE, lambda: iter([torch.zeros(count, 24)]))
    with pytest.raises(IntegrityError, match="16800 elements"):
        write_tensors(tmp_path / "x.safetensors", [made])


def test_what_is_begun_ahead_gives_its_result_or_its_error() -> None:
    with ahead(lambda progress: 7) as result:
        assert result() == 7
    with ahead(_fail) as result, pytest.raises(IntegrityError):
        result()


def test_what_is_begun_ahead_ends_with_the_block() -> None:
    ended = []

    def forever(progress: Callable[[int], object]) -> None:
        try:
            while True:
                progress(1)
                time.sleep(0.001)
        except InterruptedError:
            ended.append(True)
            raise

    with pytest.raises(ZeroDivisionError), ahead(forever):
        raise ZeroDivisionError
    assert ended == [True]


def _fail(progress: object) -> None:
    raise IntegrityError("x", "a", "b")
