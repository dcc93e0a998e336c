"""Read torch pickles without running anything that they hold."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.strict import readable, show_path
from surgery.errors import PatientError

if TYPE_CHECKING:
    from torch import Tensor

_ANEW = "save it anew as safetensors, where you trust it"


def read_pickle(path: Path, *, mapped: bool = False, left_out: Collection[str] = ()) -> Any:
    """Read a file of ``torch.save`` onto the CPU, with tensors and plain containers only.

    Args:
        path: the file.
        mapped: True to leave the tensors on disk until they are used; checksums are not compared.
        left_out: classes whose objects are read past; none of them is imported or run, and an
            :class:`Absent` stands in the place of each object.

    Raises:
        PatientError: the file is missing, old, packed or damaged, names classes that torch does
            not hold for safe, or holds a tensor larger than its stored bytes.
    """
    import torch
    from torch.serialization import safe_globals

    _check_classes(path, left_out)
    absent: list[Any] = [(_stand_in(name), name) for name in left_out]
    try:
        with safe_globals(absent):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except Exception as error:
        line = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200]
        told = f"'{ascii(line)[1:-1]}'"
        raise PatientError(show_path(path), "a file of torch.save", told, _ANEW) from error
    for tensor in _tensors(found):
        _check_storage(path, tensor)
    return found


def _check_archive(path: Path) -> None:
    """Demand an archive whose parts are stored as they are, so that none outgrows the file."""
    wanted = "a file of torch.save in its zip format (torch 1.6 or later)"
    with readable(path):
        if not path.is_file():
            found = "something else" if path.exists() else "nothing there"
            raise PatientError(show_path(path), wanted, found)
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise PatientError(show_path(path), wanted, f"'{error}'", _ANEW) from error
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    claimed, size = sum(part.file_size for part in parts), path.stat().st_size
    if packed or claimed > size:
        found = "packed parts" if packed else f"parts that claim {claimed} of {size} bytes"
        raise PatientError(show_path(path), "parts stored as they are", found, _ANEW)


class Absent:
    """Stand for an object of a class that was left out; it does nothing.

    Attributes:
        state: the plain values that would have become its attributes.
    """

    def __init__(self, *given: Any) -> None:
        self.state: dict[str, Any] = {}

    def __new__(cls, *given: Any) -> Absent:
        """Make one, whatever the pickle gives."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = dict(state) if isinstance(state, dict) else {}


def _stand_in(name: str) -> Callable[..., Any]:
    """Give what is called in the place of a class; torch fills no mapping but a plain one."""
    return _mapping if name == "collections.defaultdict" else Absent


def _mapping(*given: Any) -> dict[Any, Any]:
    """Stand for a mapping with a default."""
    return {}


def foreign_classes(path: Path) -> list[str]:
    """List the classes and functions that a file names beyond those torch holds for safe.

    Raises:
        PatientError: the file is missing, old, packed or damaged.
    """
    from torch.serialization import get_unsafe_globals_in_checkpoint

    _check_archive(path)
    try:
        return sorted(get_unsafe_globals_in_checkpoint(str(path)))
    except Exception as error:
        raise PatientError(show_path(path), "a file of torch.save", f"'{error}'"[:200]) from error


def _check_classes(path: Path, left_out: Collection[str]) -> None:
    """Refuse a file that names classes or functions beyond those torch holds for safe."""
    unsafe = [name for name in foreign_classes(path) if name not in left_out]
    if unsafe:
        shown = ", ".join(ascii(name)[1:-1] for name in unsafe[:10])
        more = f" and {len(unsafe) - 10} more" if len(unsafe) > 10 else ""
        wanted = "tensors and plain containers only"
        raise PatientError(show_path(path), wanted, shown + more, _ANEW)


def _check_storage(path: Path, tensor: Tensor) -> None:
    """Refuse a tensor of more elements than the file holds bytes for."""
    import torch

    held = 0
    if tensor.layout == torch.strided and tensor.device.type == "cpu":
        held = tensor.untyped_storage().nbytes()
    claimed = tensor.numel() * tensor.element_size()
    if claimed > held:
        found = f"{claimed} bytes claimed by a tensor of shape {tuple(tensor.shape)}"
        raise PatientError(show_path(path), f"the {held} bytes that are stored", found, _ANEW)


def _tensors(found: Any) -> Iterator[Tensor]:
    """Find the tensors in nested containers, each container once."""
    import torch

    stack, seen = [found], set()
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, Mapping | list | tuple | set | frozenset) and id(item) not in seen:
            seen.add(id(item))
            stack.extend(item.values() if isinstance(item, Mapping) else item)
