"""Write plain data as YAML that the strict reader gives back unchanged."""

from __future__ import annotations

from typing import Any

import yaml

from surgery.recipe.environment import escape
from surgery.recipe.scalars import resolve

_BREAKS = frozenset("\r\x85\u2028\u2029")


class _Dumper(yaml.SafeDumper):
    """Quote every text that YAML 1.2 would not read as that text, and never write aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if _is_plain(text) and _BREAKS.isdisjoint(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_plain(text: str) -> bool:
    try:
        return isinstance(resolve(text), str)
    except ValueError:
        return False


_Dumper.add_representer(str, _text)


def dump_yaml(data: Any, *, escaped: bool = True) -> str:
    """Write data as YAML.

    Args:
        data: dicts, lists and scalars; the order of keys is kept.
        escaped: True to escape texts so that nothing in them is taken for ``${env:NAME}``.
    """
    given = _escaped(data) if escaped else data
    return yaml.dump(given, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20)


def _escaped(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _escaped(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_escaped(value) for value in data]
    return escape(data) if isinstance(data, str) else data
