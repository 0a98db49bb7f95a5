"""What the site needs beyond its own folder: pages that live beside the code they are about, and links to sources."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Pages of the repository that are pages of the site, too.
ELSEWHERE = {
    "RESULTS.md": "results.md",
    "know_hf/retrodiction/RETRODICTION.md": "methods.md",
    "examples/recipes/README.md": "recipes.md",
    "know_hf/known/weights/stages-5/README.md": "bundled.md",
}
PICTURES = ("examples/recipes/figure3.png", "examples/recipes/table1.png")
LINK = re.compile(r"(?<!\\)(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and pictures that lie elsewhere in the repository."""
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if text.startswith("---\n"):  # a card's fields are for the Hub
            text = text.split("\n---\n", 1)[1]
        files.append(File.generated(config, page, content=text))
    for picture in PICTURES:
        files.append(File.generated(config, posixpath.basename(picture), content=(ROOT / picture).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links within the repository into links within the site; what is not on the site keeps its name alone."""
    here = next((source for source, at in ELSEWHERE.items() if at == page.file.src_uri), f"docs/{page.file.src_uri}")

    def other(found: re.Match[str]) -> str:
        mark, text, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return found[0]
        meant = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        if meant in PICTURES:
            at = posixpath.basename(meant)
        elif meant in ELSEWHERE:
            at = ELSEWHERE[meant]
        elif meant.startswith("docs/") and files.get_file_from_path(meant.removeprefix("docs/")):
            at = meant.removeprefix("docs/")
        elif (ROOT / meant).exists():
            return text if text.startswith("`") or text != posixpath.basename(path) else f"`{text}`"
        else:
            return found[0]  # the strict build names it
        link = posixpath.relpath(at, posixpath.dirname(page.file.src_uri) or ".")
        return f"{mark}[{text}]({link}{'#' + anchor if anchor else ''})"

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.S | re.M)  # code is no place for links
    return "".join(part if part.startswith("```") else LINK.sub(other, part) for part in parts)
