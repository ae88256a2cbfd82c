"""One thing that `adhere doctor` has looked at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["ok", "warning", "damaged"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, and what to do about it.

    `aside` are the files and folders that `--repair` moves aside, so that a resume makes them again.
    """

    severity: Severity
    what: str
    advice: str = ""
    aside: tuple[Path, ...] = ()


REPAIR = "adhere doctor --repair moves it aside, and adhere train RECIPE --resume makes it again"
"""The advice for what a resume makes again."""
