"""The Markdown pages of the repository as code blocks, links and inline code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from surroundings import REPOSITORY

PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "cluster/**/*.md", "k8s/**/*.md") for path in REPOSITORY.glob(pattern)
)
NAMES = [str(path.relative_to(REPOSITORY)) for path in PAGES]

FENCE = re.compile(
    r"(?:^<!--(?P<note>[^\n]*?)-->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block. `reason` says why a test does not run it; `note` is the comment above the block."""

    page: str
    line: int
    language: str
    code: str
    note: str

    @property
    def reason(self) -> str:
        return self.note.removeprefix("not run:").strip() if self.note.startswith("not run:") else ""

    @property
    def name(self) -> str:
        """The file that a block with a first line such as `# mine.toml` is."""
        first = re.match(r"# ([\w./-]+\.\w+)$", self.code.partition("\n")[0])
        return first[1] if first else ""


def blocks(page: str) -> list[Block]:
    text = (REPOSITORY / page).read_text()
    return [
        Block(page, text.count("\n", 0, m.start("code")), m["language"], m["code"], (m["note"] or "").strip())
        for m in FENCE.finditer(text)
    ]


def prose(page: str) -> str:
    """The text without its fenced blocks."""
    return FENCE.sub("", (REPOSITORY / page).read_text())


def inline_code(page: str) -> Iterator[str]:
    yield from re.findall(r"`([^`\n]+)`", prose(page))


def links(page: str) -> Iterator[str]:
    """The target of each Markdown link."""
    yield from re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(path: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", h).lower()).replace(" ", "-") for h in headings}
