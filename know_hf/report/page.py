"""A report as one self-contained HTML page, nothing loaded from elsewhere, and as Markdown."""

import base64
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment

from know_hf.store import write_text
from know_hf.tables import table
from know_hf.text import as_markdown

# In characters.
LONGEST_PARAGRAPH = 5000


class Page:
    """Collects the blocks of a report in order, and renders them as one HTML page or as Markdown.

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

    def section(self, heading: str) -> "Page":
        """Begins a section, which the HTML page's contents name."""
        return self._add("section", heading)

    def heading(self, text: str) -> "Page":
        """Adds a heading within a section."""
        return self._add("heading", text)

    def text(self, text: str) -> "Page":
        """Adds a paragraph."""
        return self._add("text", text)

    def table(self, rows: list[list[str]]) -> "Page":
        """Adds a table, of which the first row is the heading; one without rows adds nothing."""
        return self._add("table", rows) if rows else self

    def image(self, path: Path | None, caption: str) -> "Page":
        """Adds a PNG; None adds nothing."""
        return self if path is None else self._add("image", (path, caption))

    def _add(self, kind: str, content: Any) -> "Page":
        self.blocks.append((kind, content))
        return self

    def html(self) -> str:
        """The page, images within."""
        sections, body = [], []
        for kind, content in self.blocks:
            if kind == "section":
                sections.append(content)
                body.append(f'<h2 id="s{len(sections)}">{escape(content)}</h2>')
            elif kind == "heading":
                body.append(f"<h3>{escape(content)}</h3>")
            elif kind == "text":
                body.append(f"<p>{escape(content)}</p>")
            elif kind == "table":
                body.append(_html_table(content))
            else:
                path, caption = content[0], escape(content[1])
                data = base64.b64encode(path.read_bytes()).decode()
                image = f'<img src="data:image/png;base64,{data}" alt="{caption}">'
                body.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
        source = resources.files("know_hf.report").joinpath("templates/page.html").read_text(encoding="utf-8")
        template = Environment(autoescape=True).from_string(source)
        return template.render(title=self.title, sections=sections, body="\n".join(body))

    def markdown(self) -> str:
        """The same as Markdown, images as links to the files beside it."""
        lines = [f"# {as_markdown(self.title)}"]
        for kind, content in self.blocks:
            if kind in ("section", "heading"):
                lines.append(f"{'##' if kind == 'section' else '###'} {as_markdown(content)}")
            elif kind == "text":
                lines.append(as_markdown(content, LONGEST_PARAGRAPH))
            elif kind == "table":
                lines.append(table(content))
            else:
                lines.append(f"![{as_markdown(content[1])}]({content[0].name})")
        return "\n\n".join(lines) + "\n"

    def write(self, folder: Path, name: str | None = None) -> Path:
        """Writes ``index.html`` and, under a name, ``<name>.md``, each whole or not at all; returns the page's path."""
        if name is not None:
            write_text(folder / f"{name}.md", self.markdown())
        write_text(folder / "index.html", self.html())
        return folder / "index.html"


def _html_table(rows: list[list[str]]) -> str:
    """Renders rows, the first a heading, as an HTML table; text is escaped, ``**bold**`` cells stay bold."""

    def cell(text: str, tag: str) -> str:
        strong = text.startswith("**") and text.endswith("**") and len(text) > 4
        inner = f"<strong>{escape(text[2:-2])}</strong>" if strong else escape(text)
        return f"<{tag}>{inner}</{tag}>"

    head, *body = rows
    lines = ["<tr>" + "".join(cell(text, "td") for text in row) + "</tr>" for row in body]
    return (
        '<div class="scroll"><table><thead><tr>'
        + "".join(cell(text, "th") for text in head)
        + "</tr></thead><tbody>"
        + "\n".join(lines)
        + "</tbody></table></div>"
    )
