"""Edits: what a surgery returns. Plain data; the core alone places them.

A value says where the numbers of a tensor come from. ``Keep``, ``Init`` and ``Derive`` are all
there is, which is what makes the exact plan, apply out of core, replay and undo possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from surgery.anatomy.site import RowRange

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from surgery.operate.behaviour import Behaviour


@dataclass(frozen=True, slots=True)
class Keep:
    """Take the values of an old tensor of the same shape, bit for bit.

    Attributes:
        name: the old tensor's dotted name.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Init:
    """Draw or compute fresh values.

    Attributes:
        fill: called as ``fill(tensor, generator)`` with a CPU tensor to fill in place and a
            generator seeded from the recipe's seed and the tensor's name.
        live: True where ``fill`` runs the patient's forward, so that all weights must be in
            memory; such a value cannot be computed shard by shard.
    """

    fill: Callable[[Tensor, Generator], object]
    live: bool = False


@dataclass(frozen=True, slots=True)
class Derive:
    """Compute values from old tensors.

    Attributes:
        sources: dotted names of the old tensors.
        compute: called as ``compute(*old, generator=generator)``, gives the new tensor; the
            core casts it to the planned dtype and checks its shape. One that is ``Piecewise``
            too is never given the whole of its first source, where that is in a file.
    """

    sources: tuple[str, ...]
    compute: Callable[..., Tensor]


Value: TypeAlias = Keep | Init | Derive


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor that an edit adds.

    Attributes:
        shape: its shape.
        dtype: its dtype by torch's name, such as ``float32``.
        value: where its values come from.
        trainable: whether it takes gradients.
        buffer: True for a (persistent) buffer instead of a parameter.
    """

    shape: tuple[int, ...]
    dtype: str
    value: Value
    trainable: bool = True
    buffer: bool = False


@dataclass(frozen=True, slots=True)
class Extend:
    """Give a module extra tensors and a behaviour that uses them; its own tensors keep names.

    The module object stays, so its hooks, its name and every reference to it stay too.

    Attributes:
        path: the module.
        name: unique name of the extension on that module, such as ``lora.default``.
        behaviour: called without arguments, gives the ``Behaviour`` class.
        settings: what the behaviour needs to run; numbers and strings, kept beside the tensors.
        tensors: the new tensors, by name relative to the module (no dots).
        shares: tensors of other modules that this one holds too, a tie: name relative to this
            module, and the other's dotted name.
        reads: dotted names of old tensors whose shape this extension relies on.
    """

    path: str
    name: str
    behaviour: Callable[[], type[Behaviour]]
    settings: Any = None
    tensors: Mapping[str, NewTensor] = field(default_factory=dict)
    shares: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Detach:
    """Take an extension away from a module, with the tensors that it added.

    Attributes:
        path: the module.
        name: the extension's name on that module.
    """

    path: str
    name: str


@dataclass(frozen=True, slots=True)
class Place:
    """Put a module, built on meta, at a path: in place of what is there, or beside it.

    Attributes:
        path: where; the parent must exist.
        module: the module, all of its tensors on meta.
        values: for every tensor of ``module``, by name relative to it, where its values come from.
        trainable: relative names of the parameters that take gradients; None for all.
        beside: True for a module that no plain model has, whatever its configuration says; a
            whole model keeps its tensors apart, as those of extensions.
    """

    path: str
    module: nn.Module
    values: Mapping[str, Value]
    trainable: frozenset[str] | None = None
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a module, with all its tensors, out of the model.

    Attributes:
        path: the module.
    """

    path: str


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Give an existing tensor new values and perhaps a new shape; ties hold.

    Attributes:
        name: dotted name of the parameter or buffer.
        shape: new shape.
        dtype: new dtype by torch's name.
        value: where its values come from.
        attributes: module attributes that follow, by dotted path, such as
            ``{"model.embed_tokens.num_embeddings": 128}``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    value: Value
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AddTensor:
    """Give a module a tensor under a name that is free there.

    Attributes:
        name: dotted name; the module must exist.
        tensor: the tensor.
    """

    name: str
    tensor: NewTensor


@dataclass(frozen=True, slots=True)
class DropTensor:
    """Take one name of a tensor out of the model.

    Attributes:
        name: dotted name of the parameter or buffer.
    """

    name: str


@dataclass(frozen=True, slots=True)
class SetTrainable:
    """Make a parameter, or some of its rows, take gradients or not.

    Attributes:
        name: dotted name of the parameter.
        trainable: whether it takes gradients.
        rows: only these rows of axis 0 take gradients; None for the whole parameter.
    """

    name: str
    trainable: bool
    rows: tuple[RowRange, ...] | None = None


@dataclass(frozen=True, slots=True)
class HoldEval:
    """Keep a module and all below it in eval mode, whatever ``train()`` a parent calls.

    Attributes:
        path: the module.
    """

    path: str


@dataclass(frozen=True, slots=True)
class SetConfig:
    """Set one value of the patient's configuration, or of what else is saved beside the weights.

    Attributes:
        key: dotted key, such as ``text_config.vocab_size``.
        value: a JSON value.
        of: ``config``, ``generation_config`` (the model's) or ``processor``.
    """

    key: str
    value: Any
    of: str = "config"

    @property
    def name(self) -> str:
        """The key as people read it, with what it is a key of."""
        return self.key if self.of == "config" else f"{self.of}.{self.key}"


@dataclass(frozen=True, slots=True)
class SetAttribute:
    """Set a plain attribute of a module that follows from the configuration.

    Attributes:
        name: dotted path, such as ``prompt_encoder.mask_input_size``; also of a value that a
            module holds, such as ``decoder.config.num_layers``.
        value: numbers, texts, and lists, tuples and mappings of them; a function of the library.
    """

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class ChangeTokenizer:
    """Change the patient's one tokenizer.

    Attributes:
        describe: what changes, for the plan.
        change: called with the tokenizer, gives the tokenizer to use from now on; the one it
            was called with stays as it is.
        replaces: names of files that may travel with the base and no longer hold.
    """

    describe: str
    change: Callable[[Any], Any]
    replaces: tuple[str, ...] = ()


Edit: TypeAlias = (
    Extend
    | Detach
    | Place
    | Remove
    | Rewrite
    | AddTensor
    | DropTensor
    | SetTrainable
    | HoldEval
    | SetConfig
    | SetAttribute
    | ChangeTokenizer
)
