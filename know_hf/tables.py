"""Tables as Markdown, and how numbers look in them."""

from know_hf.text import as_markdown


def table(rows: list[list[str]]) -> str:
    """Aligns rows, the first a heading, as a Markdown table; cells are text, but ``**bold**`` ones stay bold."""
    rows = [[as_markdown(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def rounded(value: float | None, digits: int = 4) -> str:
    """A number with so many decimals, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
