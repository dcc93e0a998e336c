"""Find the files of a base behind a URL, and check them by their headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from surgery.checkpoint.fetch import UNFINISHED, Snapshot, refuse_unfinished
from surgery.checkpoint.header import read_header
from surgery.checkpoint.index import INDEX, SINGLE, check_map, check_plain, read_map
from surgery.checkpoint.manifest import MANIFEST, read_manifest
from surgery.checkpoint.remote import RemoteFile, listing, look_up
from surgery.checkpoint.urls import checked_url
from surgery.errors import PatientError

_INDEXES = ".safetensors.index.json"
_TEXTS = (".json", ".txt", ".model", ".jinja")


def look_at(url: str, names: Iterable[str] = ()) -> Snapshot:
    """Look at the files of a folder behind a URL; nothing but indexes and a manifest is read.

    Args:
        url: the folder.
        names: files to look for where the protocol cannot list them; weights are looked for
            anyway.

    Raises:
        PatientError: nothing is there, or the server fails.
        IntegrityError: an index or manifest is damaged, or an upload never ended.
    """
    url = checked_url(url)
    found = listing(url)
    if found is None:
        found = _asked(url, names)
    refuse_unfinished(url, found)
    if not found:
        raise PatientError(url, "a folder with a model", "nothing there")
    return Snapshot(url, _with_digests(url, found))


def _asked(url: str, names: Iterable[str]) -> dict[str, RemoteFile]:
    """Look files up by name: those that are asked for, and the weights."""
    found = look_up(url, dict.fromkeys([*names, SINGLE, INDEX, MANIFEST, UNFINISHED]))
    if SINGLE not in found and INDEX in found:
        found.update(look_up(url, _listed(Snapshot(url, found), INDEX).values()))
    return found


def _with_digests(url: str, files: Mapping[str, RemoteFile]) -> dict[str, RemoteFile]:
    """Add what a manifest says of the bytes of files that have the size that it says."""
    if MANIFEST not in files:
        return dict(files)
    folder = Snapshot(url, {MANIFEST: files[MANIFEST]}).fetch([MANIFEST])
    said = read_manifest(folder / MANIFEST)
    sums = {n: e["sha256"] for n, e in said.items() if n in files and e["size"] == files[n].size}
    return {name: replace(file, sha256=sums.get(name, "")) for name, file in files.items()}


def weights_at(found: Snapshot) -> dict[str, RemoteFile]:
    """Give the safetensors files of a model, by file name; headers are read and checked.

    Raises:
        PatientError: there are no weights, or several files without an index.
        IntegrityError: a file is damaged, or the index is wrong.
    """
    if SINGLE in found.files:
        return _checked(found, [SINGLE])
    if index := _index_of(found):
        listed = _listed(found, index)
        files = {name: _file(found, name) for name in sorted(set(listed.values()))}
        check_map(f"{found.url}/{index}", listed, files)
        return files
    names = sorted(name for name in found.files if name.endswith(".safetensors"))
    if len(names) != 1:
        present = ", ".join(sorted(found.files)[:5])
        raise PatientError(found.url, f"safetensors files, such as {SINGLE}", present)
    return _checked(found, names)


def beside_weights(found: Snapshot, suffixes: tuple[str, ...] = _TEXTS) -> list[str]:
    """Name the files that stand beside the weights: configuration and tokenizer, no index.

    Args:
        found: the folder.
        suffixes: ends of the names.
    """
    return [n for n in found.files if n.endswith(suffixes) and not n.endswith(_INDEXES)]


def whole_model(found: Snapshot, others: Iterable[str]) -> Snapshot:
    """Give the snapshot of weights, index and other files alone, to be fetched whole.

    Args:
        found: the folder.
        others: names of the files beside the weights.

    Raises:
        PatientError: there are no weights.
        IntegrityError: a file is damaged.
    """
    index = _index_of(found) if SINGLE not in found.files else None
    names = [*weights_at(found), *others, *([index] if index else [])]
    return Snapshot(found.url, {name: found.files[name] for name in names})


def index_of_weights(files: Mapping[str, RemoteFile]) -> Snapshot | None:
    """Give the index that stands beside several weight files in their folder, or None."""
    urls = {file.url.rpartition("/")[0] for file in files.values()}
    if len(files) < 2 or len(urls) != 1:
        return None
    found = look_up(url := urls.pop(), [INDEX])
    return Snapshot(url, found) if found else None


def _checked(found: Snapshot, names: list[str]) -> dict[str, RemoteFile]:
    files = {name: _file(found, name) for name in names}
    for file in files.values():
        read_header(file)
    return files


def _file(found: Snapshot, name: str) -> RemoteFile:
    if name not in found.files:
        raise PatientError(f"{found.url}/{name}", "a file of this name", "nothing there")
    return found.files[name]


def _index_of(found: Snapshot) -> str | None:
    names = sorted(name for name in found.files if name.endswith(_INDEXES))
    return INDEX if INDEX in names else names[0] if len(names) == 1 else None


def _listed(found: Snapshot, index: str) -> Mapping[str, str]:
    """Read an index; every file that it names must be one of the folder."""
    folder = Snapshot(found.url, {index: found.files[index]}).fetch([index])
    listed = read_map(folder / index)
    for name in listed.values():
        check_plain(f"{found.url}/{index}", name)
    return listed
