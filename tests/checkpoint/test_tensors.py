from __future__ import annotations

import errno
import os
import tracemalloc

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from surgery.checkpoint import place
from surgery.checkpoint.dtypes import CODES
from surgery.checkpoint.place import place_file
from surgery.checkpoint.tensors import TensorReader
from surgery.checkpoint.writer import write_tensors
from surgery.errors import IntegrityError

DTYPES = [name for name in CODES if hasattr(torch, name)]


def some(dtype: str, shape=(5, 3), seed: int = 0) -> torch.Tensor:
    """Draw every bit at random; bool gets 0 and 1."""
    kind = getattr(torch, dtype)
    drawn = torch.Generator().manual_seed(seed)
    if kind is torch.bool:
        return torch.randint(0, 2, shape, generator=drawn).bool()
    flat = torch.empty(shape, dtype=kind)
    size = (flat.numel() * kind.itemsize,)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=drawn).view(kind).reshape(shape)


def bits(tensor: torch.Tensor) -> tuple:
    plain = tensor.resolve_conj().contiguous()
    plain = torch.view_as_real(plain) if plain.is_complex() else plain
    return tensor.dtype, tuple(tensor.shape), bytes(plain.reshape(-1).view(torch.uint8).tolist())


def entry(name: str, tensor: torch.Tensor):
    return name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), lambda: tensor


def write(path, tensors, metadata=None):
    write_tensors(path, [entry(*item) for item in tensors.items()], metadata)


def test_every_dtype_makes_the_round_trip(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {dtype: some(dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "one": torch.ones(1)}
    write(path, tensors)
    reader = TensorReader(path)
    assert {n: bits(reader.get(n)) for n in reader.entries} == {
        n: bits(t) for n, t in tensors.items()
    }


def test_what_is_written_the_library_loads(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {dtype: some(dtype) for dtype in DTYPES if dtype != "float8_e8m0fnu"}
    write(path, tensors, {"note": "x"})
    assert {n: bits(t) for n, t in load_file(path).items()} == {
        n: bits(t) for n, t in tensors.items()
    }


def test_what_the_library_writes_is_read(tmp_path):
    tensors = {dtype: some(dtype) for dtype in DTYPES if dtype != "float8_e8m0fnu"}
    save_file(tensors, tmp_path / "x.safetensors")
    reader = TensorReader(tmp_path / "x.safetensors")
    assert {n: bits(reader.get(n)) for n in reader.entries} == {
        n: bits(t) for n, t in tensors.items()
    }


def test_views_are_written_by_their_values(tmp_path):
    base = some("float32", (4, 6))
    tensors = {
        "turned": base.t(),
        "part": base[1:3, ::2],
        "wide": base[:1].expand(3, 6),
        "conjugate": some("complex64").conj(),
        "negative": some("complex64", (1,)).conj().imag,
        "parameter": torch.nn.Parameter(base),
    }
    write(tmp_path / "x.safetensors", tensors)
    reader = TensorReader(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(reader.get(name).nan_to_num(), tensor.detach().nan_to_num()), name


def test_the_order_of_the_tensors_does_not_change_a_byte(tmp_path):
    tensors = {dtype: some(dtype, (3,)) for dtype in DTYPES}
    write(tmp_path / "a", tensors, {"x": "1", "y": "2"})
    write(tmp_path / "b", dict(reversed(tensors.items())), {"y": "2", "x": "1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_tensor_is_aligned_to_its_width(tmp_path):
    write(tmp_path / "a", {dtype: some(dtype, (3,)) for dtype in DTYPES})
    for one in TensorReader(tmp_path / "a").entries.values():
        assert one.begin % getattr(torch, one.dtype).itemsize == 0


def test_no_tensors_make_a_sound_file(tmp_path):
    write(tmp_path / "a", {})
    assert TensorReader(tmp_path / "a").entries == {}


def test_only_one_tensor_is_in_memory_at_a_time(tmp_path):
    alive, most = [], []

    def produce(number):
        def make():
            most.append(sum(reference() is not None for reference in alive))
            import weakref

            tensor = torch.full((1000,), float(number))
            alive.append(weakref.ref(tensor))
            return tensor

        return make

    write_tensors(
        tmp_path / "a", [(str(n), "float32", (1000,), produce(n)) for n in range(10)], None
    )
    assert len(most) == 10
    assert max(most) <= 1


def test_python_holds_no_copy_of_what_is_written(tmp_path):
    tensor = torch.zeros(4_000_000)
    tracemalloc.start()
    write(tmp_path / "a", {"a": tensor})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "tensor"),
    [
        ("a", "float32", (3,), torch.zeros(2)),
        ("a", "float32", (2,), torch.zeros(2, dtype=torch.float16)),
        ("a", "float32", (2,), torch.zeros(2, device="meta")),
        ("", "float32", (2,), torch.zeros(2)),
        ("../a", "float32", (2,), torch.zeros(2)),
        ("__metadata__", "float32", (2,), torch.zeros(2)),
    ],
)
def test_what_cannot_be_read_back_is_not_written(tmp_path, name, dtype, shape, tensor):
    with pytest.raises(IntegrityError):
        write_tensors(tmp_path / "a", [(name, dtype, shape, lambda: tensor)], {})


def test_a_name_given_twice_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match="taken"):
        write_tensors(tmp_path / "a", [entry("a", torch.ones(1)), entry("a", torch.ones(1))], {})
    assert not (tmp_path / "a").exists()


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError):
        write(tmp_path / "a", {})
    assert (tmp_path / "a").read_text() == "mine"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(DTYPES), st.integers(0, 5), st.integers(0, 5), st.integers(0, 3))
def test_rows_are_those_of_the_whole(tmp_path, dtype, start, stop, width):
    path = tmp_path / f"{dtype}-{width}"
    if not path.exists():
        write(path, {"before": some("int8"), "a": some(dtype, (5, width, 2))})
    reader = TensorReader(path)
    start, stop = sorted((start, stop))
    assert bits(reader.rows("a", start, stop)) == bits(reader.get("a")[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 6), (3, 2)])
def test_rows_beyond_a_tensor_are_refused(tmp_path, start, stop):
    write(tmp_path / "a", {"a": some("float32"), "scalar": torch.tensor(1.0)})
    with pytest.raises(IndexError):
        TensorReader(tmp_path / "a").rows("a", start, stop)
    with pytest.raises(IndexError):
        TensorReader(tmp_path / "a").rows("scalar", 0, 0)


def test_what_is_read_is_owned(tmp_path):
    write(tmp_path / "a", {"a": torch.ones(3)})
    reader = TensorReader(tmp_path / "a")
    first = reader.get("a")
    first.zero_()
    assert torch.equal(reader.get("a"), torch.ones(3))


def test_a_bool_of_other_bytes_is_refused(tmp_path):
    write(tmp_path / "a", {"a": torch.tensor([True, False])})
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[:-1] + b"\x07")
    with pytest.raises(IntegrityError, match="bool"):
        TensorReader(tmp_path / "a").get("a")


def test_a_file_cut_off_after_it_was_opened_is_refused(tmp_path):
    write(tmp_path / "a", {"a": torch.ones(3)})
    reader = TensorReader(tmp_path / "a")
    os.truncate(tmp_path / "a", (tmp_path / "a").stat().st_size - 1)
    with pytest.raises(IntegrityError, match="ends after"):
        reader.get("a")


def test_an_unknown_name_gets_a_suggestion(tmp_path):
    write(tmp_path / "a", {"layer.weight": torch.ones(3)})
    with pytest.raises(IntegrityError, match=r"did you mean 'layer\.weight'"):
        TensorReader(tmp_path / "a").get("layer.weigth")


def test_two_files_do_not_hold_one_name(tmp_path):
    for name in "ab":
        write(tmp_path / name, {"x": torch.ones(3)})
    with pytest.raises(IntegrityError, match="one in"):
        TensorReader(tmp_path / "a", tmp_path / "b")


def test_a_folder_is_read_by_its_index(tmp_path):
    write(tmp_path / "model.safetensors", {"x": torch.ones(3)})
    assert torch.equal(TensorReader(tmp_path).get("x"), torch.ones(3))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(os.urandom(3_000_000))
    return path


def forbid(monkeypatch, *names):
    for name in names:
        monkeypatch.setattr(place, name, lambda *files: False)


def test_a_placed_file_is_the_same_file_or_shares_its_blocks(source, tmp_path):
    assert place_file(source, tmp_path / "target") in {"reflink", "hard link"}
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_hard_link_is_named_as_such(source, tmp_path, monkeypatch):
    forbid(monkeypatch, "_clone")
    assert place_file(source, tmp_path / "target") == "hard link"
    assert (tmp_path / "target").samefile(source)


@pytest.mark.parametrize("without", [(), ("copy_file_range",), ("copy_file_range", "sendfile")])
def test_a_copy_is_whole_and_apart(source, tmp_path, monkeypatch, without):
    forbid(monkeypatch, "_clone", "_link")
    for name in without:
        monkeypatch.delattr(os, name, raising=False)
    assert place_file(source, tmp_path / "target") == "copy"
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert not (tmp_path / "target").samefile(source)


def test_a_system_without_kernel_copies_copies_all_the_same(source, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    forbid(monkeypatch, "_clone", "_link")
    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    assert place_file(source, tmp_path / "target") == "copy"
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_link_is_followed_to_its_file(source, tmp_path):
    (tmp_path / "link").symlink_to("source")
    place_file(tmp_path / "link", tmp_path / "target")
    assert not (tmp_path / "target").is_symlink()
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_taken_name_is_not_overwritten(source, tmp_path):
    (tmp_path / "target").write_text("mine")
    with pytest.raises(FileExistsError):
        place_file(source, tmp_path / "target")
    assert (tmp_path / "target").read_text() == "mine"
