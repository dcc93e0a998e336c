"""The errors that users see: where, wanted, found, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class SurgeryError(Exception):
    """Report one mistake that a user can mend.

    Args:
        where: the place, such as ``recipe.yaml:14:7: surgeries[1].with.rank`` or a module path.
        wanted: what was expected there.
        found: what is there.
        instead: what to write or do instead; empty where nothing helps.
    """

    code = "error"
    exit_status = 1

    def __init__(self, where: str, wanted: str, found: str, instead: str = "") -> None:
        self.where, self.wanted, self.found, self.instead = where, wanted, found, instead
        super().__init__(str(self))

    def __str__(self) -> str:
        tail = f"; {self.instead}" if self.instead else ""
        return f"{self.where}: expected {self.wanted}, got {self.found}{tail}"

    def __reduce__(self) -> tuple[object, ...]:
        """Let the error travel from another process, whatever its class takes."""
        return _again, (type(self), str(self)), self.__dict__

    def begin_at(self, where: str, what: str) -> None:
        """Say in which place the error came up, and what was done there, unless it says so."""
        if not self.where.startswith(where):
            self.where = f"{where} ({what}): {self.where}"
            self.args = (str(self),)

    def to_json(self) -> dict[str, object]:
        """Give the error as JSON values."""
        return {
            "code": self.code,
            "where": self.where,
            "wanted": self.wanted,
            "found": self.found,
            "instead": self.instead,
        }


def _again(cls: type[SurgeryError], text: str) -> SurgeryError:
    """Make an error anew; its attributes follow."""
    return cls.__new__(cls, text)


class RecipeError(SurgeryError):
    """Report a mistake in a recipe or in an option of the command line."""

    code = "recipe"
    exit_status = 2


class SelectionError(SurgeryError):
    """Report a selector that does not select what its author meant."""

    code = "selection"


class RefusedError(SurgeryError):
    """Report sites at which a surgery cannot operate."""

    code = "refused"


class ConflictError(SurgeryError):
    """Report two surgeries of one recipe that claim the same thing."""

    code = "conflict"


class PluginError(SurgeryError):
    """Report a plugin that is missing, broken or clashes with another."""

    code = "plugin"


class MissingExtraError(SurgeryError):
    """Report an optional package that is not installed, with the line that installs it."""

    code = "missing-extra"

    def __init__(self, where: str, package: str, extra: str) -> None:
        super().__init__(
            where,
            f"the package {package}",
            "no such package",
            f"run: pip install 'model-surgery[{extra}]'",
        )


class PatientError(SurgeryError):
    """Report a base model that cannot be built or read."""

    code = "patient"


class OutputError(SurgeryError):
    """Report an output folder that cannot be written."""

    code = "output"


class LockedError(OutputError):
    """Report an output folder that another process is writing."""

    code = "locked"
    exit_status = 5


class IntegrityError(SurgeryError):
    """Report files or tensors that are not what the journal or manifest says."""

    code = "integrity"
    exit_status = 4


class DriftError(SurgeryError):
    """Report something that is no longer what a recipe's lock says."""

    code = "drift"


class TrainingError(SurgeryError):
    """Report a training that would teach nothing, or cannot go on."""

    code = "training"


class ProofError(SurgeryError):
    """Report an invariant that does not hold after an operation."""

    code = "proof"


class Problems(SurgeryError):  # noqa: N818
    """Carry several mistakes of one file, found in one pass.

    Args:
        where: the file.
        problems: the mistakes, in the order in which they stand in the file.
    """

    code = "problems"

    def __init__(self, where: str, problems: Sequence[SurgeryError]) -> None:
        self.problems = tuple(problems)
        super().__init__(where, "no mistakes", f"{len(self.problems)}")
        self.exit_status = max((p.exit_status for p in self.problems), default=1)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in getattr(self, "problems", ()))

    def to_json(self) -> dict[str, object]:
        """Give all mistakes as JSON values."""
        return {
            "code": self.code,
            "where": self.where,
            "problems": [problem.to_json() for problem in self.problems],
        }


def did_you_mean(word: str, known: Iterable[str], count: int = 3) -> str:
    """Suggest the known words nearest to a word, or list the known ones if they are few."""
    words = sorted(set(known))
    near = get_close_matches(word, words, n=count, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    if not words:
        return "there are none"
    shown = ", ".join(f"'{name}'" for name in words[:12])
    return f"choose from {shown}" + (f" and {len(words) - 12} more" if len(words) > 12 else "")
