from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.anatomy.glob import MAX_GLOB, any_of, glob_regex
from surgery.errors import RecipeError


def matches(glob: str, path: str) -> bool:
    return re.fullmatch(glob_regex(glob), path) is not None


@pytest.mark.parametrize(
    ("glob", "path", "wanted"),
    [
        ("**", "", True),
        ("*", "", False),
        ("*", "lm_head", True),
        ("*", "model.lm_head", False),
        ("*.layers.*", "model.layers.3", True),
        ("**.q_proj", "q_proj", True),
        ("**.q_proj", "a.b.q_proj", True),
        ("**.q_proj", "a.xq_proj", False),
        ("a.**.b", "a.b", True),
        ("a.**.**.b", "a.x.y.z.b", True),
        ("a.**", "a", True),
        ("a.**", "ab", False),
        ("layers.[0-3].w", "layers.2.w", True),
        ("layers.[!0-3].w", "layers.2.w", False),
        ("a[!b]c", "a.c", False),
        ("a?c", "a.c", False),
        ("{q,v}_proj", "v_proj", True),
        ("{q,v}_proj", "k_proj", False),
        ("{self_attn.{q,k}*,mlp.up}", "self_attn.k_proj", True),
        ("{a,}b", "b", True),
        ("a,b", "a,b", True),
        ("a+(b)|$", "a+(b)|$", True),
        ("[a-]x", "-x", True),
        ("[]", "[]", None),
        ("[a", "a", None),
        ("a]", "a]", None),
        ("{a", "a", None),
        ("a}", "a", None),
        ("[z-a]", "a", None),
        ("a**", "a", None),
        ("***", "a", None),
        ("{**,a}", "a", None),
        ("a" * (MAX_GLOB + 1), "a", None),
        ("{" * 900, "a", None),
        ("{" * 400 + "a" + "}" * 400, "a", None),
    ],
)
def test_globs_match_whole_paths_or_are_errors(glob: str, path: str, wanted: bool | None) -> None:
    if wanted is None:
        with pytest.raises(RecipeError, match="a glob"):
            matches(glob, path)
    else:
        assert matches(glob, path) is wanted


def slow(glob: list[str], path: list[str]) -> bool:
    """The definition: names against names, one by one."""
    if not glob:
        return not path
    if glob[0] == "**":
        return slow(glob[1:], path) or (bool(path) and slow(glob, path[1:]))
    return bool(path) and slow_name(glob[0], path[0]) and slow(glob[1:], path[1:])


def slow_name(glob: str, name: str) -> bool:
    if not glob:
        return not name
    if glob[0] == "*":
        return slow_name(glob[1:], name) or (bool(name) and slow_name(glob, name[1:]))
    if glob[0] == "{":
        inside, _, rest = glob[1:].partition("}")
        return any(slow_name(option + rest, name) for option in inside.split(","))
    if glob[0] == "[":
        inside, _, rest = glob[1:].partition("]")
        hit = bool(name) and (name[0] in inside[1:]) != (inside[0] == "!")
        return hit and slow_name(rest, name[1:])
    return bool(name) and glob[0] in ("?", name[0]) and slow_name(glob[1:], name[1:])


PIECES = st.sampled_from(["a", "b", "1", "*", "?", "[^a]", "[!ab]", "{a,b1}", "{ab,}"])
GLOB_NAMES = (
    st.lists(PIECES, min_size=1, max_size=4)
    .map("".join)
    .filter(lambda name: "**" not in name)
    .map(lambda name: name.replace("[^a]", "[!a]"))
)
GLOBS = st.lists(st.one_of(GLOB_NAMES, st.just("**")), min_size=1, max_size=5)
PATHS = st.lists(st.text("ab1", min_size=1, max_size=4), min_size=1, max_size=5)


@given(GLOBS, PATHS)
def test_the_regular_expression_means_what_the_definition_says(
    glob: list[str], path: list[str]
) -> None:
    assert matches(".".join(glob), ".".join(path)) == slow(glob, path)


@given(st.lists(GLOBS, min_size=1, max_size=4), PATHS)
def test_many_globs_match_where_any_does(globs: list[list[str]], path: list[str]) -> None:
    union = any_of(glob_regex(".".join(glob)) for glob in globs)
    found = union.fullmatch(".".join(path)) is not None
    assert found == any(slow(glob, path) for glob in globs)


@given(st.text("ab.*?[]{},!^-\\&|~:", max_size=12))
def test_any_text_is_a_glob_or_an_error_of_the_recipe(text: str) -> None:
    with suppress(RecipeError):
        regex = glob_regex(text)
        plain = not set(text) & set("*?[]{}")
        assert not plain or bool(re.fullmatch(regex, text)) is (text != "")
