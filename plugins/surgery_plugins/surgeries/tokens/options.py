"""What a recipe writes for one new token, and where its rows come from."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CopyOf(_Data):
    """Take the row of a token that is there."""

    copy_of: str = Field(min_length=1, description="A token of the tokenizer as it was.")


class FromText(_Data):
    """Take the mean of the rows of a description's tokens."""

    text: str = Field(min_length=1, description="A description, such as 'segmentation mask'.")


Initial = Literal["mean", "pieces", "normal"] | CopyOf | FromText
"""Where a new row comes from.

``mean``: the mean of the rows of all tokens; ``pieces``: the mean of the rows that the token's
text had before it was a token; ``normal``: drawn with mean and deviation of all tokens' rows,
each column for itself; ``copy_of`` and ``text``: see there.
"""


class NewToken(_Data):
    """A token to add, every flag of its own; they are those of ``tokenizers.AddedToken``."""

    content: str = Field(min_length=1, description="The token's text.")
    special: bool = Field(
        default=True, description="decode(skip_special_tokens=True) leaves it out."
    )
    normalized: bool = Field(
        default=False, description="Look for it in the normalized text; misses it in some families."
    )
    lstrip: bool = Field(default=False, description="Swallow white space to its left.")
    rstrip: bool = Field(default=False, description="Swallow white space to its right.")
    single_word: bool = Field(default=False, description="Find it between word boundaries only.")
    init: Initial | None = Field(
        default=None, description="Where its input row comes from; by default as the step's."
    )
    head_init: Initial | None = Field(
        default=None, description="Where its output row comes from, where the head is not tied."
    )
