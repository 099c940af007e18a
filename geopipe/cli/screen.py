"""Consoles, tables, short texts and small plots for a terminal. Text of unknown origin is escaped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from geopipe.text import clean

WIDTH = 120

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-:=+*#"


class _Plain(Console):
    """A console without markup. Control characters and terminal escapes are printed as text."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str("\n".join(map(clean, text.split("\n"))), **options)


class _Aside(_Plain):
    """Console for stderr. A closed pipe silences it instead of raising."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or 120 columns without one.

    A stream that is not UTF-8 gets escapes for characters that it lacks, so that no message raises an error.
    """
    file = sys.stderr if stderr else sys.stdout
    if not speaks_unicode(file.encoding) and hasattr(file, "reconfigure"):
        file.reconfigure(errors="backslashreplace")
    kind, terminal = _Aside if stderr else _Plain, file.isatty()
    width = None if terminal else WIDTH
    return kind(file=file, width=width, highlight=False, markup=False, emoji=False, soft_wrap=not terminal)


def speaks_unicode(encoding: str | None) -> bool:
    """Whether blocks and lines can be written in `encoding`."""
    return (encoding or "").lower().replace("_", "-").startswith("utf")


def on_terminal(out: Console) -> bool:
    """Whether the console is a terminal that can move its cursor."""
    return out.file.isatty() and not out.is_dumb_terminal


# ---------------------------------------------------------------- words


def head(text: str, width: int, unicode: bool = True) -> str:
    """The start of `text` in `width` columns."""
    if cell_len(text) <= width:
        return text
    mark = "…" if unicode else "..."
    return set_cell_size(text, max(width - len(mark), 0)).rstrip() + mark


# ---------------------------------------------------------------- plots


def spark(values: Sequence[float | None], top: float, unicode: bool) -> str:
    """A plot of one character a value, between 0 and `top`; a gap for a missing value."""
    levels = BLOCKS if unicode else ASCII_BLOCKS
    last = len(levels) - 1

    def one(value: float | None) -> str:
        if value is None:
            return " "
        return levels[min(max(round(value / top * last), 0), last)] if top > 0 else levels[0]

    return "".join(map(one, values))


def table(
    out: Console,
    names: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    right: Sequence[str] = (),
    fold: bool = False,
) -> None:
    """Write rows under names: fitted to a terminal, elsewhere as lines that are never cut.

    Args:
        right: names of the columns that are aligned to the right.
        fold: on a terminal, write a long cell in several lines instead of its beginning only.
    """
    cells = [[cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row] for row in rows]
    if not on_terminal(out):
        plain = [list(names), *([cell.plain for cell in row] for row in cells)]
        wide = [max(cell_len(line[i]) for line in plain) for i in range(len(names))]
        for line in plain:
            parts = [padded(cell, wide[i], names[i] in right) for i, cell in enumerate(line)]
            say(out, "  ".join(parts).rstrip())
        return
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    overflow: Any = "fold" if fold else "ellipsis" if speaks_unicode(out.encoding) else "crop"
    for name in names:
        grid.add_column(Text(name), justify="right" if name in right else "left", no_wrap=not fold, overflow=overflow)
    for row in cells:
        grid.add_row(*row)
    out.print(grid)


def padded(text: str, width: int, right: bool = False) -> str:
    """`text` filled up with spaces to `width` columns; wide characters count as two."""
    gap = " " * (width - cell_len(text))
    return gap + text if right else text + gap


def headline(out: Console, words: str, rest: str = "", style: str = "bold") -> None:
    """Write a line whose first words have a style."""
    out.print(Text.assemble((clean(words), style), clean(rest)))


def say(out: Console, text: str | Text, style: str = "") -> None:
    """Write a line as it is: no markup, no emoji, and unbroken where there is no terminal."""
    line = text if isinstance(text, Text) else Text(text, style=style)
    if on_terminal(out):
        out.print(line, markup=False, emoji=False)
    else:
        out.file.write(line.plain + "\n")


def facts(out: Console, texts: dict[str, str]) -> None:
    """Write a line for each name, with its text beside it; more lines of a text stand below its first."""
    for name, text in texts.items():
        first, *rest = text.splitlines() or [""]
        out.print(f"  {name:<12} {first}")
        for line in rest:
            out.print(f"  {'':<12} {line}")
