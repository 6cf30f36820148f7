"""Pieces of HTML, as elements of the standard library's trees.

Texts from users, such as names of classes and files, enter a page only as texts and attributes of
elements. The library escapes both as it writes them, so no place can forget to.
"""

import base64
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from deeplab_tf import files

Element = ElementTree.Element
Content = str | Element | None

# Nothing is fetched and nothing runs, even if something in the page asked for it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --band: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .3rem 0; }
th, td { border: 1px solid var(--line); padding: .15rem .5rem; text-align: right; }
th[scope=row], th:first-child, .text { text-align: left; }
th[scope=row] { white-space: nowrap; }
td.text { overflow-wrap: anywhere; min-width: 9rem; }
thead th { background: var(--band); vertical-align: bottom; }
pre { background: var(--band); padding: .6rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
figure > figcaption:first-child { font-weight: bold; }
img, svg { max-width: 100%; height: auto; }
.curves, .panels { display: grid; gap: 1rem; }
.curves { grid-template-columns: repeat(auto-fill, minmax(min(100%, 28rem), 1fr)); }
.panels { grid-template-columns: repeat(auto-fill, minmax(min(45%, 22rem), 1fr)); }
.panels figure { margin: 0; }
.curves svg, .panels img { width: 100%; }
.wide { overflow: auto; margin: 1rem 0; }
.matrix { max-height: 90vh; }
.matrix td { padding: 0; }
.matrix td span { display: block; padding: .15rem .4rem; }
.matrix thead th, .matrix th[scope=row] { position: sticky; background: Canvas; }
.matrix th { box-shadow: 0 0 0 .5px var(--line); }
.matrix thead th { top: 0; }
.matrix th[scope=row], .matrix th:first-child { left: 0; }
.matrix th:first-child { z-index: 1; }
.matrix thead th:first-child { z-index: 2; }
.large { font-size: .7rem; }
.large th { padding: .2rem; font-weight: normal; }
.large td { min-width: 1.3rem; height: 1.3rem; text-align: center; }
.large td span { padding: .15rem 0; }
.large thead th + th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1.2rem; }
.missing { border-left: 4px solid #c60; padding-left: .6rem; }
.swatch { display: inline-block; width: .9em; height: .9em; border: 1px solid var(--line);
  margin-right: .4em; vertical-align: -.1em; }
nav ul { display: flex; flex-wrap: wrap; gap: 0 1.2rem; padding: 0; list-style: none; }
summary { cursor: pointer; }
"""


def element(tag: str, *content: Content, **attributes: object) -> Element:
    """Returns an element.

    Args:
      content: texts and elements, in their order; None counts for nothing.
      attributes: by name, `_` for `-`; a last `_` is dropped, as in `class_`. None leaves one out.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), files.shown(value))
    return extended(made, *content)


def extended(parent: Element, *content: Content) -> Element:
    """Adds texts and elements to an element, and returns it."""
    for part in content:
        if isinstance(part, str):
            text = _printable(part)
            if len(parent):
                parent[-1].tail = (parent[-1].tail or "") + text
            else:
                parent.text = (parent.text or "") + text
        elif part is not None:
            parent.append(part)
    return parent


def _printable(text: str) -> str:
    """Returns a text whose lines all can be shown, and written as UTF-8."""
    return "\n".join(map(files.shown, text.split("\n")))


def paragraph(*content: Content) -> Element:
    """Returns a paragraph."""
    return element("p", *content)


def missing(sentence: str, command: str = "") -> Element:
    """Returns what stands where something is missing: why, and the command that makes it."""
    shown = element("pre", element("code", command)) if command else None
    return element("div", paragraph(sentence), shown, class_="missing")


def what_is_missing(sections: Sequence[Element]) -> list[str]:
    """Returns what the page says is missing: each sentence once, with its command."""
    found: dict[str, None] = {}
    for note in (part for whole in sections for part in whole.iter("div")):
        if note.get("class") == "missing":
            sentence = " ".join("".join(part.itertext()) for part in note)
            found.setdefault(sentence, None)
    return list(found)


def preformatted(text: str) -> Element:
    """Returns a text whose lines are kept, such as a command."""
    return element("pre", element("code", text))


def fold(summary: str, *content: Content) -> Element:
    """Returns content that is shown when its summary is opened."""
    return element("details", element("summary", summary), *content)


def table(
    caption: str, heading: Sequence[str], rows: Iterable[Sequence[Content]], *, texts: bool = False
) -> Element:
    """Returns a table; the first cell of each row names the row.

    Args:
      texts: whether the other cells are texts, and not numbers.
    """
    kind = "text" if texts else None
    head = element("tr", *(element("th", name, scope="col", class_=kind) for name in heading))
    body = element("tbody")
    for name, *cells in rows:
        row = element("tr", element("th", name, scope="row"))
        body.append(extended(row, *(element("td", cell, class_=kind) for cell in cells)))
    return scrollable(
        element("table", element("caption", caption), element("thead", head), body), label=caption
    )


def scrollable(content: Element, *, label: str) -> Element:
    """Returns what may be wider than the page, in a region that the keyboard can scroll."""
    return element("div", content, class_="wide", tabindex="0", role="region", aria_label=label)


def swatch(name: str, color: tuple[int, int, int]) -> Element:
    """Returns a class's colour and name."""
    red, green, blue = color
    patch = element("span", class_="swatch", style=f"background:#{red:02x}{green:02x}{blue:02x}")
    return element("span", patch, name)


def picture(content: bytes, alternative: str, caption: str) -> Element:
    """Returns a picture that is part of the page.

    Args:
      content: of a PNG or JPEG file.
      alternative: what it shows, for those who do not see it.
    """
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    address = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    image = element("img", alt=alternative, src=address)
    return element("figure", image, element("figcaption", caption))


def section(identity: str, title: str, *content: Content) -> Element:
    """Returns a section of the page, which the page's contents lead to."""
    return element("section", element("h2", title, id=identity), *content)


def page(title: str, introduction: Sequence[Content], sections: Sequence[Element]) -> str:
    """Returns the text of a whole page, with links to its sections."""
    links = element("ul")
    for part in sections:
        heading = part[0]
        link = element("a", heading.text, href=f"#{heading.get('id')}")
        links.append(element("li", link))

    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", _STYLE),
    )
    body = element(
        "body",
        element(
            "header",
            element("h1", title),
            *introduction,
            element("nav", links, aria_label="Contents"),
        ),
        element("main", *sections),
    )
    root = element("html", head, body, lang="en")
    return f"<!DOCTYPE html>\n{ElementTree.tostring(root, encoding='unicode', method='html')}\n"
