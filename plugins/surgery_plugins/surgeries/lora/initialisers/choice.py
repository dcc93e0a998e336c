"""The option ``init``: the name of an initialiser, or a mapping of its name and options."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from surgery.operate.initialiser import Initialiser
from surgery_plugins.surgeries.chosen import chosen, schema, written

BUILT_IN = ("kaiming", "gaussian", "orthonormal", "orthogonal", "pissa", "olora", "loftq", "eva")
"""Names that this distribution offers."""

Choice: TypeAlias = Annotated[
    Initialiser,
    BeforeValidator(chosen("initialiser")),
    PlainSerializer(written),
    WithJsonSchema(schema(BUILT_IN)),
]
"""An initialiser as a recipe writes it."""
