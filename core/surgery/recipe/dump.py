"""Write plain data as YAML that the strict reader gives back unchanged."""

from __future__ import annotations

from typing import Any

import yaml
from surgery.recipe.environment import escape
from surgery.recipe.scalars import resolve


class _Dumper(yaml.SafeDumper):
    """Quote every text that YAML 1.2 would not read as text, and never write aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    escaped = escape(text)
    style = None if isinstance(_resolved(escaped), str) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", escaped, style=style)


def _resolved(text: str) -> Any:
    try:
        return resolve(text)
    except ValueError:
        return None


_Dumper.add_representer(str, _text)


def dump_yaml(data: Any) -> str:
    """Write data as YAML.

    Args:
        data: dicts, lists and scalars; the order of keys is kept. Texts are escaped so that
            nothing in them is taken for ``${env:NAME}``.
    """
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20
    )
