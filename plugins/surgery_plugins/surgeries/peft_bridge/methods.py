"""Which methods PEFT has, and which of them are about modules at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.errors import MissingExtraError, RefusedError, did_you_mean

_PROMPT = "it adds tokens to the model's input, so it belongs to the whole model and to no module"

_NOT_HERE = {
    "lora": "the surgery `lora` does it, on more kinds of weights",
    "ln_tuning": "the surgery `unfreeze` does it",
    "trainable_tokens": "the surgery `unfreeze` does it with `rows:`",
    "adalora": "it moves ranks between all sites by calls that the training loop has to make",
    "adaption_prompt": "it exchanges every attention of the model",
    "xlora": "it mixes adapters of the whole model by a forward of its own",
    "poly": "it wants the number of a task in every call of the model",
    "shadow": "it runs a second model beside the whole",
    "cartridge": _PROMPT,
    "osf": "it takes a part of the base's weights away",
    "frod": "it decomposes the weights of all sites together",
    "adamss": "its shapes follow from the base's values, so no plan can say them",
}


def configuration(method: str, options: Mapping[str, Any], paths: str) -> Any:
    """Give PEFT's configuration of a method.

    Args:
        method: PEFT's name of it, such as ``ia3``.
        options: the method's own options.
        paths: regular expression of the module paths.

    Raises:
        MissingExtraError: PEFT is not installed.
        RefusedError: the method is none of modules, or refuses the options.
    """
    kinds = _kinds()
    if method in _NOT_HERE:
        raise _refused(method, _NOT_HERE[method])
    if method not in kinds:
        raise RefusedError("peft.method", "a method of PEFT", method, did_you_mean(method, kinds))
    if "target_modules" not in kinds[method].__dataclass_fields__:
        raise _refused(method, _PROMPT)
    try:
        return kinds[method](**options, target_modules=paths)
    except (TypeError, ValueError) as error:
        text = str(error).strip().splitlines()[0]
        raise RefusedError(
            f"peft: {method}", "options that PEFT accepts", text, "mend `options:`"
        ) from None


def tuner(configuration: Any) -> Any:
    """Give PEFT's class that builds the layers of a configuration."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    return PEFT_TYPE_TO_TUNER_MAPPING[configuration.peft_type]


def _kinds() -> dict[str, Any]:
    """Give the classes of configurations by the methods' names."""
    try:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError:
        raise MissingExtraError("peft", "peft", "peft") from None
    return {kind.value.lower(): made for kind, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def _refused(method: str, why: str) -> RefusedError:
    return RefusedError("peft.method", "a method that changes modules one by one", method, why)
