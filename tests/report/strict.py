"""Read HTML strictly: every tag closed, nothing that runs, nothing that is fetched."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta"}
INLINE = {"span", "b", "code", "a", "mark"}
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "a", "header", "nav", "main", "section",
    "h1", "h2", "h3", "p", "div", "span", "mark", "b", "code", "pre", "details", "summary",
    "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "svg", "desc", "line",
    "text", "polyline", "circle",
}  # fmt: skip
HARMLESS = {
    "charset", "name", "content", "http-equiv", "lang", "class", "id", "href", "role", "tabindex",
    "open", "scope", "viewbox", "points", "cx", "cy", "r", "x", "y", "x1", "x2", "y1", "y2",
    "text-anchor",
}  # fmt: skip


class Strict(HTMLParser):
    """Collect tags, attributes and text, and refuse what a page must not have."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.above: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.doctype = ""

    def handle_decl(self, decl: str) -> None:
        self.doctype = decl

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, f"<{tag}>"
        for name, value in attrs:
            assert name in HARMLESS or name.startswith("aria-"), f"<{tag} {name}={value}>"
            assert name != "href" or str(value).startswith("#"), value
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        self.seen.append((tag, dict(attrs)))
        self.words.append("" if tag in INLINE else " ")
        if tag not in VOID:
            self.above.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.above, f"</{tag}> closes nothing"
        assert self.above.pop() == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        if "style" not in self.above:
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.seen if "id" in attrs]


def strictly(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.above == []
    ids = parser.ids()
    assert len(set(ids)) == len(ids)
    for _, attrs in parser.seen:
        for key in ("href", "aria-labelledby"):
            for name in str(attrs.get(key) or "").replace("#", "").split():
                assert name in ids, name
    return parser
