"""The surgery ``attach``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from surgery.anatomy.site import Site
from surgery.errors import RefusedError
from surgery.operate.attachment import Attachment
from surgery.operate.edits import Edit, Extend, Place
from surgery.operate.surgery import Surgery
from surgery_plugins.surgeries.attach.kinds import BUILT_IN
from surgery_plugins.surgeries.attach.runtime import Feed, following, running, tapped
from surgery_plugins.surgeries.chosen import chosen, schema, written

if TYPE_CHECKING:
    from torch import nn

    from surgery.operate.patient import Patient

Choice: TypeAlias = Annotated[
    Attachment,
    BeforeValidator(chosen("attachment")),
    PlainSerializer(written),
    WithJsonSchema(schema(tuple(kind.name for kind in BUILT_IN))),
]
"""An attachment as a recipe writes it."""


class Attach(Surgery):
    """Place a new module beside the model, fed by an output of the selected site.

    What it makes stands in the model's output under its name, where that has names, and is given
    by ``attached(model)``; the model's own outputs stay bit for bit.
    """

    name: ClassVar[str] = "attach"
    identity_at_init: ClassVar[bool] = True
    examples: ClassVar[Sequence[Mapping[str, Any]]] = (
        {
            "at": {"match": r"image\.norm|mix"},
            "with": {"called": "view", "module": {"use": "mlp", "hidden": [6], "out": 3}},
        },
    )

    called: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the module in the model, and of what it makes in the output.",
    )
    module: Choice = Field(
        description="What to attach, such as {use: mlp, hidden: [64], out: 8}; a plugin may offer "
        "more."
    )
    output: str | None = Field(
        default=None,
        description="Which output of the site, where it has several: keys and numbers with dots "
        "between, such as 'last_hidden_state' or 'hidden_states.0'.",
    )
    detach: bool = Field(
        default=False, description="Let no gradient go from the module into the model."
    )
    features: int | None = Field(
        default=None, ge=1, description="Size of what feeds it; read off a forward if left out."
    )
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = Field(
        default=None, description="Dtype of the module; by default that of what feeds it."
    )
    found: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="What a forward showed. The plan fills it in for the journal.",
    )

    def refuse(self, site: Site) -> str | None:
        """Refuse what gives no output of its own: parameters, rows, and what is never called."""
        if site.is_parameter:
            return "it is a parameter and no module, and gives no output"
        if site.part is not None:
            return f"{site.part} is only some rows of it"
        return "another module reads its weight without calling it" if site.direct else None

    def scope(self, sites: Sequence[Site], patient: Patient) -> Sequence[Site]:
        """Give the topmost sites: a role selects a module's parts too."""
        from surgery_plugins.surgeries.fresh.settings import topmost

        return topmost(sites)

    def settled(self, sites: Sequence[Site], patient: Patient) -> Surgery:
        """Find size and dtype of what feeds the module in one forward; once found they stay."""
        if self.found:
            return self
        from surgery_plugins.surgeries.attach.settle import settle

        self._check_free(patient.model)
        return self.model_copy(update=settle(self, _only(sites).path, patient))

    def operate(self, sites: Sequence[Site], patient: Patient) -> Iterable[Edit]:
        """Place the module, tap the site, and let the model run the module."""
        from surgery_plugins.surgeries.attach.fresh import fresh_module

        self._check_free(patient.model)
        path, label = _only(sites).path, f"attach.{self.called}"
        assert self.features is not None
        assert self.dtype is not None
        module, values = fresh_module(
            self.module, self.features, self.dtype, patient.model.training
        )
        yield Place(self.called, module, values, beside=True)
        yield Extend(self.called, "attach.mode", following)
        if path:
            yield Extend(path, label, tapped)
        yield Extend("", label, running, Feed(self.called, path, self.output, self.detach))

    def notes(self, sites: Sequence[Site], patient: Patient) -> Iterator[str]:
        """Show what feeds the module and what it makes."""
        yield from (f"{what}: {value}" for what, value in self.found.items())

    def _check_free(self, model: nn.Module) -> None:
        from torch import nn

        if isinstance(model, nn.Sequential | nn.ModuleList):
            raise RefusedError(
                "attach", "a model with a forward of its own, beside which a module has a place",
                f"{type(model).__name__}, which takes every module in it for one of its steps",
                "put it into a module that calls it",
            )  # fmt: skip
        if hasattr(model, self.called):
            raise RefusedError(
                f"attach.called: {self.called}", "a name that is free in the model",
                f"one that {type(model).__name__} has already", "choose another",
            )  # fmt: skip


def _only(sites: Sequence[Site]) -> Site:
    if len(sites) != 1:
        paths = ", ".join(site.path for site in sites[:5])
        raise RefusedError(
            "attach", "one site that feeds the module", f"{len(sites)}: {paths}",
            "narrow `at:`, or write one step for each",
        )  # fmt: skip
    return sites[0]
