"""HTML pages, such as a study's report: nothing in them runs or calls out when they are opened."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

from ...rules import Broken, rule
from .walk import Unpacked

ENDINGS = (".html", ".htm", ".svg")
# What a report needs; all else (script, iframe, object, form, base, link …) can act.
_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "footer"),
    *("nav", "article", "aside", "details", "summary", "h1", "h2", "h3", "h4", "h5", "h6", "p"),
    *("div", "span", "br", "hr", "pre", "code", "em", "strong", "b", "i", "small", "sub", "sup"),
    *("q", "blockquote", "a", "ul", "ol", "li", "dl", "dt", "dd", "table", "caption", "colgroup"),
    *("col", "thead", "tbody", "tfoot", "tr", "th", "td", "figure", "figcaption", "img"),
    # Drawings; animate and foreignobject are left out: they change and hold other things.
    *("svg", "g", "path", "defs", "use", "text", "tspan", "rect", "circle", "ellipse", "line"),
    *("polyline", "polygon", "image", "clippath", "mask", "lineargradient", "radialgradient"),
    *("stop", "pattern", "marker", "symbol", "desc"),
    # What matplotlib writes about a drawing.
    *("metadata", "rdf:rdf", "cc:work", "cc:license", "cc:agent"),
    *("dc:type", "dc:date", "dc:format", "dc:creator", "dc:title"),
}
_ADDRESSES = ("href", "src", "xlink:href", "action", "data", "poster", "srcset")


@rule("pages", "must be a page that runs nothing and loads nothing")
def pages(found: Unpacked) -> Iterator[Broken]:
    for path in found.sizes:
        if not path.lower().endswith(ENDINGS):
            continue
        reader = _Reader()
        reader.feed((found.root / path).read_bytes().decode("utf-8", errors="replace"))
        if reader.cdata_elem:
            reader.active.append("a style that does not end")
        for value in reader.active:
            yield Broken(value[:120], "Look at it as text before you open it", path)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.active: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        if tag not in _TAGS:
            self.active.append(f"<{tag}>")
        for name, value in attrs:
            text = "".join((value or "").split()).lower()
            if name.startswith("on") or (tag == "meta" and name == "http-equiv"):
                self.active.append(f"{name} in <{tag}>")
            elif name in _ADDRESSES and not text.startswith(("#", "data:image/png;", "mailto:")):
                if not (tag == "a" and text.startswith("https://")):  # a link that is clicked
                    self.active.append(f"{name}={text[:60]!r} in <{tag}>")
            elif name == "style":
                self._style(text)

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self._style("".join(data.split()).lower())

    # Where browsers end a comment or a style inside a drawing sooner than this parser does, what
    # follows would be hidden from it.
    def handle_comment(self, data: str) -> None:
        if "<" in data or data.startswith((">", "->")):
            self.active.append("a comment that holds markup")

    def unknown_decl(self, data: str) -> None:
        self.active.append(f"<![{data[:60]}")

    def handle_pi(self, data: str) -> None:
        if not data.startswith("xml "):
            self.active.append(f"<?{data[:60]}")

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def _style(self, text: str) -> None:
        # Escapes spell anything; `url(#…)` points into the page.
        if (
            "<" in text
            or "@import" in text
            or "\\" in text
            or text.replace("url(#", "").count("url(")
        ):
            self.active.append("a style that loads something")
