"""Inputs that a user states by shape, completed by what can be guessed."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surgery.anatomy.inputs import guesses
from surgery.anatomy.stated import Stated
from surgery.errors import RecipeError, did_you_mean

Size = tuple[int, int]
"""Height and width in pixels."""


def stated_inputs(
    model: nn.Module, stated: Mapping[str, Stated], image: Size | None = None
) -> dict[str, Any]:
    """Give the inputs that a user states, on meta.

    Args:
        model: the model.
        stated: inputs that are known by shape.
        image: height and width of images in pixels, stated or guessed.

    Raises:
        RecipeError: forward takes no such input, a dtype is unknown, or there is no image.
    """
    _check_names(model, stated)
    known = {name: _empty(name, one, model) for name, one in stated.items()}
    if image is None:
        return known
    first = {**next((_typed(guess, model) for guess in guesses(model)), {}), **known}
    images = [n for n, v in first.items() if isinstance(v, Tensor) and v.dim() >= 4]
    if not images:
        found = ", ".join(first) or "no input"
        raise RecipeError("--image-size", "a model that takes images", found)
    return known | {
        n: _made((*first[n].shape[:-2], *image), first[n].dtype, "--image-size") for n in images
    }


def apart(model: nn.Module, image: Size) -> dict[str, Any]:
    """Give the image of a model whose forward takes none though it is its main input, on meta.

    Models for video are such: their forward takes a session that holds the images.

    Args:
        model: the model.
        image: height and width in pixels.
    """
    name = getattr(model, "main_input_name", None)
    if name != "pixel_values" or name in inspect.signature(model.forward).parameters:
        return {}
    return {name: _made((1, 3, *image), _usual(name, model), "--image-size")}


def candidates(
    model: nn.Module, known: Mapping[str, Any], fixed: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Give inputs for one forward, on meta, most complete first; they differ in what is guessed.

    Args:
        model: the model.
        known: inputs that are not guessed.
        fixed: those whose number of dimensions is known too; other images may be several.

    Raises:
        RecipeError: nothing is known, and nothing can be guessed.
    """
    guessed = [_batched(_typed(guess, model), known) for guess in guesses(model)]
    made = [{**guess, **known} for guess in guessed] or [dict(known)]
    tried = [variant for one in made for variant in (one, _listed(one, fixed))]
    if not any(tried):
        raise RecipeError(
            "check.inputs", "inputs for a forward", "none, and none can be guessed",
            "state them in the recipe with `check: {inputs: {NAME: [SIZE, ...]}}`, or give "
            "--input NAME=SHAPE",
        )  # fmt: skip
    return _distinct(tried)


def _batched(guess: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Give a guess with as many samples as the known inputs have, where they agree on a number."""
    counts = {len(value) for value in known.values() if isinstance(value, Tensor) and value.dim()}
    if len(counts) != 1:
        return guess
    (count,) = counts
    return {
        name: value.new_empty((count, *value.shape[1:])) if isinstance(value, Tensor) else value
        for name, value in guess.items()
    }


def _listed(inputs: dict[str, Any], fixed: Iterable[str]) -> dict[str, Any]:
    """Give the same inputs with a list of one image for each sample."""
    images = {
        name: value[:, None]
        for name, value in inputs.items()
        if isinstance(value, Tensor) and value.dim() == 4 and name not in fixed
    }
    return {**inputs, **images}


def _distinct(tried: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for one in tried:
        key = tuple((n, tuple(v.shape) if isinstance(v, Tensor) else id(v)) for n, v in one.items())
        found.setdefault(key, one)
    return list(found.values())


def _check_names(model: nn.Module, stated: Mapping[str, Stated]) -> None:
    """Refuse names that forward does not list, unless it lists none."""
    every = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in every if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for name in stated:
        if names and name not in names:
            wanted = f"an input that the forward of {type(model).__name__} takes"
            raise RecipeError(f"check.inputs.{name}", wanted, "none", did_you_mean(name, names))


def _empty(name: str, one: Stated, model: nn.Module) -> Tensor:
    kind = getattr(torch, one.dtype, None) if one.dtype else _usual(name, model)
    if not isinstance(kind, torch.dtype):
        where = f"check.inputs.{name}"
        raise RecipeError(where, "a dtype such as float32 or int64", str(one.dtype))
    return _made(one.shape, kind, f"check.inputs.{name}")


def _made(shape: Sequence[int], dtype: torch.dtype, where: str) -> Tensor:
    """Give a tensor on meta; one that no machine could address is a mistake of who stated it."""
    try:
        return torch.empty(tuple(shape), dtype=dtype, device="meta")
    except RuntimeError:
        told = " x ".join(map(str, shape))
        raise RecipeError(where, "sizes that a tensor can have", told) from None


def _usual(name: str, model: nn.Module) -> torch.dtype:
    """Give whole numbers for ids, masks and labels; otherwise the dtype of the weights."""
    if name.endswith(("_ids", "attention_mask", "labels")):
        return torch.int64
    kinds = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(kinds, torch.float32)


def _typed(guess: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Give a guess whose numbers have the dtype of the weights."""
    return {
        name: value.to(_usual(name, model))
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in guess.items()
    }
