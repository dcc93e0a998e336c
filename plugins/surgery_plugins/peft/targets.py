"""Which modules a PEFT configuration means: the rules by which PEFT itself selects.

Rules: ``check_target_module_exists``, ``get_pattern_key`` and ``_set_trainable`` of PEFT 0.21.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

LINEAR_CLASSES = frozenset(("Linear", "Conv1D"))


def targeted_modules(config: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Give the paths of the modules that PEFT would adapt, in module order."""
    wanted = config.get("target_modules")
    if isinstance(wanted, str) and wanted.lower() == "all-linear":
        wanted = _all_linear(model)
    if not wanted:
        return []
    return [
        path
        for path, _ in model.named_modules()
        if path and not _excluded(config, path) and _meant(wanted, config, path)
    ]


def targeted_parameters(config: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Give the names of the raw parameters that PEFT would adapt, in module order."""
    wanted = config.get("target_parameters") or ()
    names = [
        f"{path}.{leaf}"
        for path, module in model.named_modules()
        for leaf, value in module._parameters.items()
        if value is not None
    ]
    return [name for name in names if any(_ends(name, one) for one in wanted)]


def saved_modules(config: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Give the paths of the modules that PEFT trains and saves whole, the topmost of each."""
    wanted = tuple(config.get("modules_to_save") or ())
    found: list[str] = []
    for path, _ in model.named_modules(remove_duplicate=False):
        inside = any(path.startswith(top + ".") for top in found)
        if wanted and path.endswith(wanted) and not inside:
            found.append(path)
    return found


def pattern_value(patterns: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """Give what a rank or alpha pattern says of a path: the first that matches its end."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _meant(wanted: str | Iterable[str], config: Mapping[str, Any], path: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, path) is not None
    names = list(wanted)
    if path in names:
        return True
    return any(path.endswith(f".{name}") for name in names) and _in_layers(config, path)


def _in_layers(config: Mapping[str, Any], path: str) -> bool:
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or ()
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    tries = [rf"(?:^|.*?\.){p}\.(\d+)\." for p in patterns] or [r".*?\.[^.]*\.(\d+)\."]
    found = next((match for one in tries if (match := re.match(one, path))), None)
    if found is None:
        return False
    return int(found[1]) in ([layers] if isinstance(layers, int) else layers)


def _excluded(config: Mapping[str, Any], path: str) -> bool:
    saved = config.get("modules_to_save") or ()
    if any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in saved):
        return True
    unwanted = config.get("exclude_modules") or ()
    if isinstance(unwanted, str):
        return re.fullmatch(unwanted, path) is not None
    return any(_ends(path, name) for name in unwanted)


def _all_linear(model: nn.Module) -> list[str]:
    """Give all linear modules but the one that gives the outputs."""
    get = getattr(model, "get_output_embeddings", None)
    head = get() if get else None
    return [
        path
        for path, module in model.named_modules()
        if module is not head and LINEAR_CLASSES & {base.__name__ for base in type(module).__mro__}
    ]


def is_attention(module: object) -> bool:
    """Tell whether a module is torch's attention, whose two projections PEFT adapts together."""
    return any(base.__name__ == "MultiheadAttention" for base in type(module).__mro__)


def other_settings(module: Any) -> str:
    """Say what PEFT's adapter of a convolution leaves out; empty where it leaves out nothing."""
    if module.padding_mode != "zeros":
        return f"padding_mode {module.padding_mode}, which PEFT's adapter pads with zeros"
    wide = any(d != 1 and k != 1 for d, k in zip(module.dilation, module.kernel_size, strict=True))
    return f"dilation {module.dilation}, which PEFT's adapter has not" if wide else ""
