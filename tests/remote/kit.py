"""A server of files on loopback, and bases behind URLs."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec

from surgery.flow.recipe import Outcome, apply_recipe
from surgery.flow.run import Run
from surgery.flow.write import Engine
from surgery.hooks.registry import registry
from surgery.recipe.read import read_recipe

QV = {"role": ["attention.q", "attention.v"]}
LORA: list[dict[str, Any]] = [
    {"use": "lora", "at": QV, "with": {"rank": 2, "init": "gaussian"}},
]
MERGED = [*LORA, {"use": "merge"}]


@dataclass
class Server:
    """What a server does, and what it gave.

    Attributes:
        folder: what it serves.
        ranges: False to give whole files whatever is asked for.
        marks: False to say nothing by which a change could be seen.
        failing: how many of the next answers are errors.
        sent: bytes given, by path.
    """

    folder: Path
    url: str = ""
    ranges: bool = True
    marks: bool = True
    failing: int = 0
    sent: Counter[str] = field(default_factory=Counter)

    def sent_of(self, suffix: str) -> int:
        return sum(count for path, count in self.sent.items() if path.endswith(suffix))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: Server, *arguments: Any) -> None:
        self.about = server
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.about.folder / self.path.lstrip("/")
        if self.about.failing:
            self.about.failing -= 1
            self._say(503, b"", {})
        elif not path.is_file():
            self._say(404, b"", {})
        else:
            self._give(path, body)

    def _give(self, path: Path, body: bool) -> None:
        data, asked = path.read_bytes(), self.headers.get("Range")
        extra = {"Last-Modified": formatdate(path.stat().st_mtime, usegmt=True)}
        extra = extra if self.about.marks else {}
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "") if self.about.ranges else None
        if found:
            begin, end = int(found[1]), int(found[2]) + 1
            extra["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
            data = data[begin:end]
        if body:
            self.about.sent[self.path] += len(data)
        self._say(206 if found else 200, data, extra, body)

    def _say(self, status: int, data: bytes, extra: dict[str, str], body: bool = True) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    about = Server(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, about)) as server:
        about.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield about
        server.shutdown()
        thread.join()


def in_memory(folder: Path, name: str) -> str:
    """Copy a folder into fsspec's memory; give its URL."""
    fs = fsspec.filesystem("memory")
    if fs.exists(f"/{name}"):
        fs.rm(f"/{name}", recursive=True)
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"/{name}/{path.relative_to(folder)}", path.read_bytes())
    return f"memory://{name}"


def held(url: str) -> dict[str, bytes]:
    """Give the files behind a URL of fsspec's memory, by their path in it."""
    fs = fsspec.filesystem("memory")
    top = "/" + url.removeprefix("memory://")
    return {p[len(top) + 1 :]: fs.cat_file(p) for p in fs.find(top)} if fs.exists(top) else {}


def here(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def tensors(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out what names the base: recipe, journal and their digests."""
    return {n: b for n, b in files.items() if n.endswith((".safetensors", "index.json"))}


def recipe(folder: Path, base: object, out: object, steps: Any, save: str = "changed") -> Path:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({
        "recipe": 1, "patient": {"source": "hf", "path": str(base)}, "surgeries": steps,
        "output": {"path": str(out), "save": save},
    }))  # fmt: skip
    return path


def run(
    folder: Path, base: object, out: object, steps: Any, save: str = "changed", **how: Any
) -> Outcome:
    """Apply a recipe."""
    known = registry()
    engine = how.pop("engine", Engine())
    read = read_recipe(str(recipe(folder, base, out, steps, save)), registry=known)
    return apply_recipe(read, known, Run(engine=engine, **how))
