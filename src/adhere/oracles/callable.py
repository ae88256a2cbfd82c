"""Any Python function as an oracle."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence

from adhere.errors import OracleError
from adhere.oracles.base import Oracle
from adhere.oracles.version import version_of

ScoreOutputs = Callable[[list[str]], "list[float | None]"]
ScoreAnswers = Callable[[list[str], list[str]], "list[float | None]"]


class CallableOracle(Oracle):
    """Asks `function(outputs)`, or with `judges_prompt` `function(prompts, outputs)`, for a list of scores.

    The scores are numbers in [0, 1], 1 = satisfied, or None for no verdict, one per output; a NumPy array or a tensor
    serves as well.

    Args:
        function: a function, or where to find one, as "package.module:function"; modules in the working folder are
            found too. It runs with all your rights: name only code that you trust.
        judges_prompt: pass the prompts as well.
        prefix_closed: state it when a violating text stays violating however it goes on.
        name: what messages, files and tables call it; without it, the function's name.
        version: of the verdicts; without it, a digest of the file that the function stands in.

    Raises:
        OracleError: no such module or function, it cannot be imported, or it is no function.
    """

    def __init__(
        self,
        function: str | ScoreOutputs | ScoreAnswers,
        *,
        judges_prompt: bool = False,
        prefix_closed: bool = False,
        name: str | None = None,
        version: str | None = None,
    ) -> None:
        self._function: Callable[..., object] = _find(function) if isinstance(function, str) else function
        if not callable(self._function):
            raise OracleError(f"a callable oracle needs a function, got {self._function!r}")
        self.judges_prompt = judges_prompt
        self.prefix_closed = prefix_closed
        self.name = name or str(getattr(self._function, "__name__", type(self._function).__name__))
        self.version = version or version_of(source=_digest_of_source(self._function), judges_prompt=judges_prompt)

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        arguments = (list(prompts), list(outputs)) if self.judges_prompt else (list(outputs),)
        scores = self._function(*arguments)
        to_list = getattr(scores, "tolist", None)  # NumPy arrays and tensors
        return to_list() if to_list is not None else scores  # type: ignore[return-value]  # judge checks


def _find(place: str) -> Callable[..., object]:
    module_name, _, function_name = place.partition(":")
    if not module_name or not function_name:
        raise OracleError(f"a callable oracle is written 'package.module:function', got {place!r}")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # last, so that nothing there hides an installed module
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        where = "" if module_name == missing or module_name.startswith(f"{missing}.") else f" (needed by {module_name})"
        raise OracleError(
            f"oracle {place!r}: no module named {missing!r}{where}; it must be installed or stand in {os.getcwd()}"
        ) from error
    except Exception as error:
        raise OracleError(
            f"oracle {place!r}: importing {module_name} raised {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if function is None:
        near = difflib.get_close_matches(
            function_name, [name for name in vars(module) if callable(vars(module)[name])], 1
        )
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise OracleError(f"oracle {place!r}: {module_name} ({module.__file__}) has no {function_name!r}{hint}")
    if not callable(function):
        raise OracleError(f"oracle {place!r} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def _digest_of_source(function: Callable[..., object]) -> str:
    """Of the whole file, since the function may call others in it; of the function's name where there is no file."""
    code = function if inspect.isroutine(function) else type(function)
    try:
        file = inspect.getsourcefile(code)
        if file is not None:
            with open(file, "rb") as source:
                return f"{code.__qualname__} {hashlib.sha256(source.read()).hexdigest()}"
    except (OSError, TypeError):
        pass  # built in, or typed at a prompt
    return f"{code.__module__}.{code.__qualname__}"
