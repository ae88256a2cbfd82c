"""What is written to the terminal, and how text that is not ours gets there without harm.

Prompts, outputs, file names and messages may hold anything: `visible` turns control characters (an ANSI escape that
clears the screen, a mark that reverses the text) into their escapes, and no text of the user's is read as Rich markup.
"""

from __future__ import annotations

import shlex
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from adhere import ranks

_KEPT = {"\n", "\t"}
# Control (Cc), format (Cf: bidirectional marks, zero-width), surrogate, line and paragraph separators.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = {"\u200c", "\u200d"}  # part of how Persian, Hindi and emoji are written


def visible(text: str, *, one_line: bool = False) -> str:
    """The text with every character that would steer the terminal written as its escape.

    Args:
        text: anything.
        one_line: escape line feeds and tabs as well.
    """
    kept = _JOINERS if one_line else _JOINERS | _KEPT
    return "".join(
        char if char in kept or unicodedata.category(char) not in _UNSEEN else char.encode("unicode_escape").decode()
        for char in text
    )


def say(*lines: RenderableType) -> None:
    """Write to stdout; strings as they are, without markup. Of several processes that train together the first speaks."""
    if not ranks.is_first():
        return
    _write(Console(highlight=False), lines)


def complain(*lines: RenderableType) -> None:
    """Write to stderr; strings as they are, without markup."""
    _write(Console(stderr=True, highlight=False), lines)


def command(*words: str | Path) -> str:
    """A command of ours as it is typed."""
    return shlex.join(["adhere", *map(str, words)])


def fields(title: str, pairs: Iterable[tuple[str, str]]) -> Table:
    """Labels with their values below a title."""
    table = Table(title=Text(visible(title)), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in pairs:
        table.add_row(Text(visible(label)), Text(visible(value)))
    return table


def indented(text: str) -> Padding:
    """Text of the user's, set in from the left."""
    return Padding(Text(visible(text)), (0, 0, 0, 2), expand=False)


def write_anything() -> None:
    """Let no character stop the program: what the terminal's encoding cannot show is written as its escape."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _write(console: Console, lines: Iterable[RenderableType]) -> None:
    for line in lines:
        if isinstance(line, str):
            # Not wrapped: a path or a command that is cut in two cannot be copied.
            console.print(Text(visible(line)), soft_wrap=True)
        else:
            console.print(line)
