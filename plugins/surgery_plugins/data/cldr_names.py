"""The data set ``cldr-names``: names of places, languages and money in 30 languages.

They are of Unicode's Common Locale Data Repository, as the package Babel carries it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from random import Random
from typing import Any, ClassVar, Literal

from pydantic import Field

from surgery.errors import MissingExtraError, RecipeError
from surgery.operate.data import Data, Samples

LANGUAGES = (
    "ca", "cs", "cy", "da", "de", "en", "es", "et", "eu", "fi", "fr", "ga", "hr", "hu", "id",
    "is", "it", "lt", "lv", "nb", "nl", "pl", "pt", "ro", "sk", "sl", "sv", "sw", "tr", "vi",
)  # fmt: skip
"""Languages written in Latin letters, so that letters alone do not tell them apart."""

_KINDS = ("territories", "languages", "scripts", "currencies")
_WHERE = "train.data: cldr-names"


class CldrNames(Data):
    """Tell in which language a name is: ``text`` is the name, ``label`` the language's code.

    What is named (Iceland, the yen, the Cyrillic script) is either trained on or judged by, in all
    languages at once, so that no name can be known by heart. Names that are the same in two of
    the languages have no right answer; they are left out, as are names in both parts (of a
    language and its script).
    """

    name: ClassVar[str] = "cldr-names"

    part: Literal["train", "test"] = Field(description="To train on, or to judge by.")
    count: int = Field(4800, ge=1, description="How many names, as many in each language.")
    seed: int = Field(0, ge=0, description="Seed of which names are drawn.")

    def open(self) -> Samples:
        """Draw the names.

        Raises:
            MissingExtraError: Babel is not installed.
            RecipeError: there are not so many names.
        """
        each, rest = divmod(self.count, len(LANGUAGES))
        if rest:
            wanted = f"a multiple of {len(LANGUAGES)}, the number of languages"
            raise RecipeError(f"{_WHERE}: count", wanted, str(self.count))
        known = _names(self.part)
        fewest = min(map(len, known.values()))
        if each > fewest:
            wanted = f"at most {fewest * len(LANGUAGES)} names to {self.part}"
            raise RecipeError(f"{_WHERE}: count", wanted, str(self.count))
        random = Random(f"{self.seed} {self.part}")
        return [
            {"text": text, "label": language}
            for language, texts in known.items()
            for text in random.sample(texts, each)
        ]


@lru_cache(maxsize=2)
def _names(part: str) -> Mapping[str, list[str]]:
    """Give the names that only one of the languages has, and that part alone, by language."""
    places: dict[str, set[tuple[str, str]]] = defaultdict(set)
    found: dict[str, set[str]] = {language: set() for language in LANGUAGES}
    for language in LANGUAGES:
        for item, text in _named(language):
            places[text.casefold()].add((language, _part_of(item)))
            found[language].add(text)
    return {
        language: sorted(text for text in texts if places[text.casefold()] == {(language, part)})
        for language, texts in found.items()
    }


def _named(language: str) -> Iterator[tuple[str, str]]:
    """Give what is named, and its name in one language."""
    try:
        from babel import Locale
    except ModuleNotFoundError:
        raise MissingExtraError(_WHERE, "babel", "demo") from None
    locale: Any = Locale.parse(language)
    for kind in _KINDS:
        for code, text in getattr(locale, kind).items():
            yield f"{kind}/{code}", str(text)


def _part_of(item: str) -> str:
    """Give the part of what is named: one of six is judged by, whatever the languages."""
    return "test" if sha256(item.encode()).digest()[0] % 6 == 0 else "train"
