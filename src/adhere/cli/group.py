"""The root command: exit codes are 0 done, 1 a check failed, 2 the user must change something, 130 Ctrl-C.

A defect of ours is none of these: its traceback is shown.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup

from adhere.cli.screen import complain
from adhere.errors import AdhereError

CHECK_FAILED = 1
USER_ERROR = 2


class AdhereGroup(TyperGroup):
    """Shows an `AdhereError` as its message alone; hands what was typed to the commands as `context.obj`."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **settings: Any) -> Any:
        typed = list(sys.argv[1:] if args is None else args)
        try:
            return super().main(typed, *rest, **{"obj": typed, **settings})
        except AdhereError as error:
            complain(str(error))
            sys.exit(USER_ERROR)
