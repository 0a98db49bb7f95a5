"""A report as one self-contained HTML page, nothing loaded from elsewhere, and as Markdown."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from know_hf.report.svg import NARROW, WIDE, Chart
from know_hf.store import write_text
from know_hf.tables import table
from know_hf.text import as_markdown

# In characters.
LONGEST_PARAGRAPH, LONGEST_GIST = 5000, 120


class Page:
    """Collects the blocks of a report in order, and renders them as one HTML page or as Markdown.

    The HTML page reads without its script, which adds what a pointer or the keyboard can do: tables are sorted by their
    headings, marks of drawings tell their numbers, keys and names of methods show and hide.

    Args:
        title: Heading and window title.

    Example:
        >>> from know_hf.report.page import Page
        >>> page = Page("Report").section("Scores").table([["start", "score"], ["naive", "92.4"]])
        >>> "<td>92.4</td>" in page.html()
        True
    """

    def __init__(self, title: str):
        self.title = title
        self.blocks: list[tuple[str, Any]] = []

    def verdict(self, text: str) -> "Page":
        """Adds a paragraph of what follows from it all; on the HTML page it stands before everything else."""
        return self._add("verdict", text)

    def section(self, heading: str) -> "Page":
        """Begins a section, which the HTML page's contents name."""
        return self._add("section", heading)

    def heading(self, text: str) -> "Page":
        """Adds a heading within a section."""
        return self._add("heading", text)

    def text(self, text: str) -> "Page":
        """Adds a paragraph."""
        return self._add("text", text)

    def link(self, address: str, text: str) -> "Page":
        """Adds a link to a file, by its address from the page's folder."""
        return self._add("link", (address, text))

    def methods(self, names: Sequence[str]) -> "Page":
        """Adds switches to the HTML page that show and hide methods in the section; fewer than three add none."""
        return self._add("methods", names) if len(names) > 2 else self

    def table(self, rows: list[list[str]], methods: Mapping[str, str] | None = None) -> "Page":
        """Adds a table, of which the first row is the heading; one without rows adds nothing.

        Args:
            rows: Texts of its cells.
            methods: First cell of a row → the method whose switch shows and hides it.
        """
        return self._add("table", (rows, methods or {})) if rows else self

    def image(self, path: Path | None, caption: str, chart: Chart | None = None) -> "Page":
        """Adds a PNG, in whose stead the HTML page draws the chart, if there is one; without both it adds nothing."""
        return self if path is None and chart is None else self._add("image", (path, caption, chart))

    def _add(self, kind: str, content: Any) -> "Page":
        self.blocks.append((kind, content))
        return self

    def html(self) -> str:
        """The page, drawings, images, style and script within."""
        sections: list[str] = []
        body: list[str] = []
        for kind, content in self.blocks:
            if kind == "section":
                body.append("</section>" * bool(sections))
                sections.append(content)
                name = f"s{len(sections)}"
                body.append(f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(content)}</h2>')
            elif kind != "verdict":
                body.append(_HTML[kind](content))
        body.append("</section>" * bool(sections))
        script = _template("page.js")
        return (
            Environment(autoescape=True)
            .from_string(_template("page.html"))
            .render(
                title=self.title,
                verdicts=[_gist(content) for kind, content in self.blocks if kind == "verdict"],
                sections=sections,
                body=Markup("\n".join(body)),
                style=Markup(_template("page.css")),
                script=Markup(script),
                script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            )
        )

    def markdown(self) -> str:
        """The same as Markdown, images as links to the files beside it."""
        lines = [f"# {as_markdown(self.title)}"]
        for kind, content in self.blocks:
            if kind in ("section", "heading"):
                lines.append(f"{'##' if kind == 'section' else '###'} {as_markdown(content)}")
            elif kind in ("text", "verdict"):
                lines.append(as_markdown(content, LONGEST_PARAGRAPH))
            elif kind == "table":
                lines.append(table(content[0]))
            elif kind == "link":
                lines.append(f"{as_markdown(content[1])}: {as_markdown(content[0])}")
            elif kind == "image" and content[0] is not None:
                lines.append(f"![{as_markdown(content[1])}]({content[0].name})")
        return "\n\n".join(lines) + "\n"

    def write(self, folder: Path, name: str | None = None) -> Path:
        """Writes ``index.html`` and, under a name, ``<name>.md``, each whole or not at all; returns the page's path."""
        if name is not None:
            write_text(folder / f"{name}.md", self.markdown())
        write_text(folder / "index.html", self.html())
        return folder / "index.html"


def _gist(text: str) -> tuple[str, str]:
    """What a verdict comes to, which is shown in bold, and the rest."""
    ends = [place for mark in (": ", ". ") if 0 < (place := text.find(mark) + 1) <= LONGEST_GIST]
    return (text[: min(ends)], text[min(ends) :]) if ends else ("", text)


def _template(name: str) -> str:
    return resources.files("know_hf.report").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def _html_table(content: tuple[list[list[str]], Mapping[str, str]]) -> str:
    """Renders rows, the first a heading, as an HTML table; text is escaped, ``**bold**`` cells stay bold."""
    rows, methods = content

    def cell(text: str, tag: str) -> str:
        strong = text.startswith("**") and text.endswith("**") and len(text) > 4
        inner = f"<strong>{escape(text[2:-2])}</strong>" if strong else escape(text)
        return f'<{tag} scope="col">{inner}</th>' if tag == "th" else f"<{tag}>{inner}</{tag}>"

    def row(texts: list[str]) -> str:
        own = f' data-m="{escape(methods[texts[0]])}"' if texts[0] in methods else ""
        return f"<tr{own}>" + "".join(cell(text, "td") for text in texts) + "</tr>"

    head, *body = rows
    return (
        '<div class="scroll"><table><thead><tr>'
        + "".join(cell(text, "th") for text in head)
        + "</tr></thead><tbody>"
        + "\n".join(map(row, body))
        + "</tbody></table></div>"
    )


def _html_image(content: tuple[Path | None, str, Chart | None]) -> str:
    path, caption, chart = content
    below = f"<figcaption>{escape(caption)}</figcaption>"
    if chart is not None:
        # Either is drawn for its width, so that letters keep their size.
        drawn = "".join(
            f'<div class="{name}">{chart.draw(width)}</div>' for name, width in (("wide", WIDE), ("narrow", NARROW))
        )
        keys = "".join(
            f'<li class="{key.colour}{" dashed" * key.dashed}" data-s="{escape(key.name)}">{escape(key.name)}</li>'
            for key in chart.keys
        )
        shown = f'<ul class="keys" aria-label="Key">{keys}</ul>' if len(chart.keys) > 1 else ""
        return f"<figure>{shown}{drawn}{below}</figure>"
    if path is None:
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img src="data:image/png;base64,{data}" alt="{escape(caption)}">{below}</figure>'


def _html_methods(names: Sequence[str]) -> str:
    switches = "".join(f'<li data-m="{escape(name)}">{escape(name)}</li>' for name in names)
    return f'<ul class="methods" aria-label="Show and hide methods" hidden>{switches}</ul>'


_HTML: dict[str, Callable[[Any], str]] = {
    "heading": lambda content: f"<h3>{escape(content)}</h3>",
    "text": lambda content: f"<p>{escape(content)}</p>",
    "link": lambda content: f'<p><a href="{escape(content[0])}">{escape(content[1])}</a></p>',
    "table": _html_table,
    "image": _html_image,
    "methods": _html_methods,
}
