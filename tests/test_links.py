"""Links in documents and notebooks that point inside the repository lead somewhere."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATTERNS = ("*.md", "docs/*.md", "learn/**/*.md", "learn/**/*.ipynb", "deploy/**/*.md")
DOCUMENTS = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
INLINE = re.compile(r"\]\(([^)\s]+)\)")  # [text](target) and ![text](target)
REFERENCE = re.compile(r"^\[[^\]]+\]: (\S+)", re.MULTILINE)  # [name]: target


def text_of(path):
    """Markdown without code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors_of(path):
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def broken_links(path):
    text = text_of(path)
    for target in INLINE.findall(text) + REFERENCE.findall(text):
        if re.match(r"[a-z]+:", target):  # https: and the like
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or (anchor and anchor not in anchors_of(place)):
            yield target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path):
    assert list(broken_links(path)) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](#one-heading) [b](#two) ![c](c.png) `[d](d)`\n[e]: e.md\n")
    assert list(broken_links(page)) == ["#two", "c.png", "e.md"]
