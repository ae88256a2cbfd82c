"""Silences what libraries write of themselves, and gives our own warnings a voice.

Set by environment variables where they exist: they cost nothing when the library is never imported, and what the user
has set stands.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

from adhere import ranks
from adhere.cli.screen import complain

_ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers goes by it too
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",  # others draw bars of their own, across ours
}


def _tell(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as its sentence alone, without the line of our source that gave it."""
    complain(f"warning: {message}")


class _OnScreen(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(f"{record.levelname.lower()}: {record.getMessage()}")


def quiet_libraries() -> None:
    """Call it before anything heavy is imported; errors, and what `adhere` logs, stay visible."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:  # not where the user asked for warnings: python -W, PYTHONWARNINGS
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", message="oracle ")  # ours: it read only the beginning of some texts
        warnings.showwarning = _tell
    ours = logging.getLogger("adhere")
    if not ranks.is_first():
        warnings.simplefilter("ignore")
        ours.addHandler(logging.NullHandler())
    elif not any(isinstance(handler, _OnScreen) for handler in ours.handlers):
        ours.addHandler(_OnScreen())
