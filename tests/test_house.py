"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "core" / "surgery"
FILES = sorted(p for top in ("core", "plugins", "recipes") for p in (ROOT / top).rglob("*.py"))
ORDER = (
    "errors", "checkpoint", "anatomy", "checks", "operate", "hooks", "recipe", "flow",
    "training", "testing", "report", "cli",
)  # fmt: skip


def module_of(path: Path) -> str:
    parts = list(path.relative_to(path.parents[len(path.relative_to(ROOT).parts) - 2]).parts)
    parts[-1] = parts[-1].removesuffix(".py")
    return ".".join(part for part in parts if part != "__init__")


SHOWN = ("surgery.anatomy.site", "surgery.operate.plan")
"""Values that show themselves in notebooks, by what stands above them."""

MODULES = {module_of(path): path for path in FILES}


def imports(path: Path, *, lazy: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazy else _at_import(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def _at_import(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not typing_only:
            yield node
            yield from _at_import(node)


def test_the_house_was_read() -> None:
    assert len(FILES) > 40
    assert "surgery.operate.transaction" in MODULES


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_and_functions_too(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert _body_lines(node) <= 40, f"{node.name} has {_body_lines(node)} lines"


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return 0 if not body else (body[-1].end_lineno or 0) - body[0].lineno + 1


def rank(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "surgery" or len(parts) < 2 or parts[1] not in ORDER:
        return None
    return ORDER.index(parts[1])


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down_only(name: str) -> None:
    own = rank(name)
    for other in imports(MODULES[name], lazy=True):
        theirs = rank(other)
        if own is not None and theirs is not None:
            if name in SHOWN and theirs == ORDER.index("report"):
                continue
            assert theirs <= own, f"{name} imports {other}"


def test_the_core_names_no_plugin() -> None:
    for name, path in MODULES.items():
        if name.startswith("surgery."):
            assert not any(i.startswith("surgery_plugins") for i in imports(path, lazy=True)), name


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {n: {i for i in imports(p, lazy=False) if i in MODULES} for n, p in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for other in graph[name] - {name}:
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_core_names_no_model_family() -> None:
    words = ("llama", "bert", "gpt", "qwen", "sam2", "sam3", "internvl", "mistral", "clip")
    for name, path in MODULES.items():
        if name.startswith("surgery."):
            tree = ast.parse(path.read_text())
            docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
            strings = [
                node.value.lower()
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
                and id(node) not in docs
            ]  # fmt: skip
            found = {word for word in words for text in strings if word in text.split("_")}
            assert not found, f"{name} names {found}"
