"""The form of a recipe file, as pydantic models. What plugins offer is checked elsewhere."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from surgery.anatomy.selector import EVERYWHERE, Selector
from surgery.anatomy.stated import Stated

FORMAT = 1
"""Version of the recipe format."""


def _regular(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"expected a regular expression, got {pattern!r} ({error})") from None
    return pattern


def _layers(text: str | int) -> str | int:
    if not re.fullmatch(LAYERS, str(text)):
        wanted = "a layer such as 4 or -1, a range such as 4-11 or a stride such as 0-11/2"
        several = f"; several are a list, [{text}]" if "," in str(text) else ""
        raise ValueError(f"expected {wanted}, got {text!r}{several}")
    return text


LAYERS = r"-?[0-9]+(-(-?[0-9]+))?(/[1-9][0-9]*)?"
"""The form of one entry of ``layers:``."""

_Text: TypeAlias = Annotated[str, Field(min_length=1)]
_Regex: TypeAlias = Annotated[_Text, AfterValidator(_regular)]
_Layers: TypeAlias = Annotated[str | int, AfterValidator(_layers)]
_Texts: TypeAlias = _Text | Annotated[list[_Text], Field(min_length=1)]


class Form(BaseModel):
    """Base of the forms: frozen, strict, unknown keys forbidden."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True
    )


class AtForm(Form):
    """Where to operate. All keys that are given must hold; a list means any of."""

    role: _Texts | None = Field(None, description="What the site does, such as attention.q.")
    path: _Texts | None = Field(None, description="Glob over dotted paths; ** crosses dots.")
    match: _Regex | Annotated[list[_Regex], Field(min_length=1)] | None = Field(
        None, description="Full regular expression over dotted paths."
    )
    type: _Texts | None = Field(None, description="Class name; base classes count.")
    layers: _Layers | Annotated[list[_Layers], Field(min_length=1)] | None = Field(
        None, description="Layer numbers and ranges: 4, -1, '4-11', '0-11/2', from the end with -."
    )
    tower: _Texts | None = Field(None, description="Tower, such as text or vision.")
    exclude: _Text | AtForm | Annotated[list[_Text | AtForm], Field(min_length=1)] | None = Field(
        None, description="What to leave out: a glob, or a selector of its own."
    )

    @model_validator(mode="after")
    def _selects(self) -> AtForm:
        if not self.model_fields_set:
            raise ValueError("expected at least one key, got an empty mapping")
        return self

    def selector(self) -> Selector:
        """Give the selector that is meant."""
        listed = {name: _texts(getattr(self, name)) for name in _KEYS}
        return Selector(**listed, exclude=tuple(map(_excluded, _listed(self.exclude))))


_KEYS = ("role", "path", "match", "type", "layers", "tower")


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, _listed(value)))


def _excluded(value: str | AtForm) -> Selector:
    return Selector(path=(value,)) if isinstance(value, str) else value.selector()


class StepForm(Form):
    """One surgery, where it operates, and with which options."""

    use: str = Field(description="Name of the surgery.")
    at: AtForm | None = Field(None, description="Where to operate; everywhere by default.")
    options: dict[str, Any] = Field({}, alias="with", description="Options of the surgery.")
    expect: int | None = Field(None, ge=1, description="How many sites there must be.")
    overlap: bool = Field(
        False, description="True to let this step override what an earlier one claimed."
    )

    @property
    def selector(self) -> Selector:
        """Where to operate; every path by default."""
        return self.at.selector() if self.at else Selector(path=(EVERYWHERE,))


class Output(Form):
    """What is written.

    Attributes:
        path: the folder.
        save: ``changed`` for the tensors that differ from the base, ``full`` for all.
        also: names of exporters; each writes a folder of its own in ``path``.
    """

    path: _Text = Field(description="Folder to write; relative to the recipe's folder.")
    save: Literal["changed", "full"] = Field(
        "changed", description="Only the tensors that differ from the base, or all of them."
    )
    also: list[_Text] = Field(
        [], description="Formats of other tools to write too, a folder each, such as peft."
    )


class InputForm(Form):
    """An input of a forward by its shape and dtype."""

    shape: list[Annotated[int, Field(ge=0)]] = Field(description="Sizes of its dimensions.")
    dtype: _Text | None = Field(
        None, description="Such as float32; by default int64 for ids, masks and labels."
    )


class CheckForm(Form):
    """What `surgery check` runs a forward with; nothing is computed."""

    inputs: dict[str, list[Annotated[int, Field(ge=0)]] | InputForm] = Field(
        {}, description="Shape of each input of forward; what is left out is guessed."
    )

    def stated(self) -> dict[str, Stated]:
        """Give the inputs that are meant."""
        forms = {
            name: InputForm(shape=one, dtype=None) if isinstance(one, list) else one
            for name, one in self.inputs.items()
        }
        return {name: Stated(tuple(form.shape), form.dtype) for name, form in forms.items()}


class RecipeForm(Form):
    """A recipe for model surgery; each entry of ``surgeries`` is a ``StepForm``."""

    recipe: Literal[1] = Field(description="Version of the recipe format.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything that is drawn.")
    plugins: dict[str, str] | None = Field(
        None, description="Distributions that must be installed, with versions such as '>=1,<2'."
    )
    patient: dict[str, Any] | None = Field(None, description="What to operate on.")
    surgeries: list[dict[str, Any]] = Field(min_length=1, description="The surgeries, in order.")
    output: Output | None = Field(None, description="What to write.")
    check: CheckForm | None = Field(None, description="What to check the result with.")
    train: dict[str, Any] | None = Field(None, description="How to train afterwards.")
