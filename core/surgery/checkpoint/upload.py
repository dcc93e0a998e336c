"""Publish an output behind a URL: made on this machine first, complete there or marked as not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

from surgery.checkpoint.fetch import UNFINISHED, cache_folder
from surgery.checkpoint.lock import hold_lock
from surgery.checkpoint.manifest import MANIFEST
from surgery.checkpoint.publish import publish
from surgery.checkpoint.remote import file_system, has_lists, listing, why
from surgery.checkpoint.urls import Folder, RemoteFolder
from surgery.errors import OutputError

_AT_ONCE = 4


@contextmanager
def publish_at(final: Folder, *, force: bool = False, needed_bytes: int = 0) -> Iterator[Path]:
    """Give a hidden folder to write into, and publish it at the end, here or behind a URL.

    No server moves many files in one step. So the output is made on this machine, and then sent:
    first a mark that says that it is unfinished, with the names that come; then the manifest of
    an older output is removed; then the files, the manifest last; then what is left of an older
    output is removed, and at the very end the mark. Whatever the moment at which a run dies, an
    output without the mark is complete. The next run takes a marked one for a leftover of its
    own kind and replaces it.

    Args:
        final: the folder to publish.
        force: replace what stands there.
        needed_bytes: the size of the output in bytes, for this machine's disk; 0 if unknown.

    Yields:
        The hidden folder, empty.

    Raises:
        LockedError: another process of this machine is writing this output.
        OutputError: the output exists, or the disk or the server refuses.
    """
    if isinstance(final, Path):
        with publish(final, force=force, needed_bytes=needed_bytes) as folder:
            yield folder
        return
    place = cache_folder() / "outgoing" / sha256(final.url.encode()).hexdigest()[:32]
    place.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(place):
        _check(final, force)
        made = place / (final.name or "output")
        try:
            with publish(made, force=True, needed_bytes=needed_bytes) as folder:
                yield folder
            _send_all(made, final)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _check(final: RemoteFolder, force: bool) -> None:
    """Refuse a place that cannot be written, or where something else stands."""
    found = _present(final)
    if found and not force and UNFINISHED not in found:
        raise OutputError(
            final.url,
            "a folder where nothing stands",
            f"{len(found)} files",
            "choose another place, or give --force to replace them",
        )


def _present(final: RemoteFolder) -> set[str]:
    """Name the files behind a URL."""
    if not has_lists(final.url):
        scheme = final.url.partition(":")[0]
        wanted = "a protocol that can list and write files"
        raise OutputError(final.url, wanted, f"{scheme}, which is for reading")
    fs, path = file_system(final.url)
    there: list[bool] = []
    _writing(final.url, lambda: there.append(fs.exists(path)))
    return set(listing(final.url, deep=True) or ()) if there[0] else set()


def _send_all(made: Path, final: RemoteFolder) -> None:
    """Send the files of a finished output in the order that :func:`publish_at` says."""
    new = {p.relative_to(made).as_posix(): p for p in made.rglob("*") if p.is_file()}
    old = _present(final)
    mark = made.with_name(UNFINISHED)
    mark.write_text(json.dumps({"files": sorted(new)}) + "\n", encoding="utf-8")
    _send(mark, f"{final.url}/{UNFINISHED}")
    _remove(final, old & {MANIFEST})
    manifest = new.pop(MANIFEST, None)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(_send, new.values(), [f"{final.url}/{name}" for name in new]))
    if manifest is not None:
        _send(manifest, f"{final.url}/{MANIFEST}")
    _remove(final, sorted(old - {*new, MANIFEST, UNFINISHED}))
    _remove(final, [UNFINISHED])


def _send(local: Path, url: str) -> None:
    """Write a file of this machine to a URL."""
    fs, path = file_system(url)
    _writing(url, lambda: fs.makedirs(path.rpartition("/")[0], exist_ok=True))
    _writing(url, lambda: fs.put_file(str(local), path))


def _remove(final: RemoteFolder, names: Iterable[str]) -> None:
    """Remove files behind a URL."""
    for name in names:
        fs, path = file_system(url := f"{final.url}/{name}")
        _writing(url, partial(fs.rm_file, path))


def _writing(url: str, change: Callable[[], object]) -> None:
    """Change something on a server; whatever it raises is one error that names the place."""
    try:
        change()
    except Exception as error:
        raise OutputError(url, "a place that can be written", why(error)) from None
