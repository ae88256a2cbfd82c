"""The root command: exit codes are 0 done, 1 a check failed, 2 the user must change something, 130 Ctrl-C.

A defect of ours is none of these: its traceback is shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from typer import BadParameter
from typer.core import TyperGroup

from adhere import ranks
from adhere.cli.screen import complain, visible
from adhere.errors import AdhereError, HealthError, PeerError, RefreshError

CHECK_FAILED = 1
USER_ERROR = 2
_IN_ALL_ALIKE = (HealthError, RefreshError)
"""Errors for which all processes that train together stop, each by itself: the first one tells of them."""
_GRACE = 2.0
"""Seconds for the process that tells: a launcher ends all of them when one has ended."""


class AdhereGroup(TyperGroup):
    """Shows an `AdhereError` as its message alone; hands what was typed to the commands as `context.obj`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BadParameter as error:
            # Without the words of the library that converts values, and with nothing that steers the terminal.
            said = error.message.removeprefix("Value error, ").replace("Input should be", "it must be")
            error.message = visible(said, one_line=True)
            raise

    def main(self, args: Sequence[str] | None = None, *rest: Any, **settings: Any) -> Any:
        typed = list(sys.argv[1:] if args is None else args)
        try:
            return super().main(typed, *rest, **{"obj": typed, **settings})
        except AdhereError as error:
            if isinstance(error, PeerError) or (isinstance(error, _IN_ALL_ALIKE) and not ranks.is_first()):
                time.sleep(_GRACE)
            else:
                complain(str(error))
            sys.exit(USER_ERROR)
