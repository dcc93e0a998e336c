"""Read torch pickles without running anything that they hold."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import PatientError

if TYPE_CHECKING:
    from torch import Tensor

_ANEW = "save it anew as safetensors, where you trust it"


def read_pickle(path: Path) -> Any:
    """Read a file of ``torch.save`` onto the CPU, with tensors and plain containers only.

    Raises:
        PatientError: the file is missing, old, packed or damaged, names classes that torch does
            not hold for safe, or holds a tensor larger than its stored bytes.
    """
    import torch

    _check_archive(path)
    _check_classes(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        raise PatientError(str(path), "a file of torch.save", f"'{text[:200]}'", _ANEW) from error
    for tensor in _tensors(found):
        _check_storage(path, tensor)
    return found


def _check_archive(path: Path) -> None:
    """Demand an archive whose parts are stored as they are, so that none outgrows the file."""
    wanted = "a file of torch.save in its zip format (torch 1.6 or later)"
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except FileNotFoundError:
        raise PatientError(str(path), wanted, "nothing there") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise PatientError(str(path), wanted, f"'{error}'", _ANEW) from error
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    claimed, size = sum(part.file_size for part in parts), path.stat().st_size
    if packed or claimed > size:
        found = "packed parts" if packed else f"parts that claim {claimed} of {size} bytes"
        raise PatientError(str(path), "parts stored as they are", found, _ANEW)


def _check_classes(path: Path) -> None:
    """Refuse a file that names classes or functions beyond those torch holds for safe."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        unsafe = sorted(get_unsafe_globals_in_checkpoint(str(path)))
    except Exception as error:
        raise PatientError(str(path), "a file of torch.save", f"'{error}'"[:200]) from error
    if unsafe:
        shown = ", ".join(ascii(name)[1:-1] for name in unsafe[:10])
        more = f" and {len(unsafe) - 10} more" if len(unsafe) > 10 else ""
        raise PatientError(str(path), "tensors and plain containers only", shown + more, _ANEW)


def _check_storage(path: Path, tensor: Tensor) -> None:
    """Refuse a tensor of more elements than the file holds bytes for."""
    import torch

    held = 0
    if tensor.layout == torch.strided and tensor.device.type == "cpu":
        held = tensor.untyped_storage().nbytes()
    claimed = tensor.numel() * tensor.element_size()
    if claimed > held:
        found = f"{claimed} bytes claimed by a tensor of shape {tuple(tensor.shape)}"
        raise PatientError(str(path), f"the {held} bytes that are stored", found, _ANEW)


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
