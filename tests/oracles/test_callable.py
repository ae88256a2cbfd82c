import sys
from pathlib import Path

import numpy as np
import pytest

from adhere.errors import OracleError
from adhere.oracles import CallableOracle, judge


def lengths(outputs: list[str]) -> list[float]:
    return [min(len(output) / 10, 1.0) for output in outputs]


def answers(prompts: list[str], outputs: list[str]) -> list[float]:
    return [float(prompt in output) for prompt, output in zip(prompts, outputs, strict=True)]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the working folder, which is on no path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    file = tmp_path / "my_rules_for_this_test.py"
    file.write_text("limit = 3\ndef short(outputs):\n    return [float(len(o) <= limit) for o in outputs]\n")
    yield file
    sys.modules.pop(file.stem, None)


def test_a_function_is_asked_for_whole_outputs_and_no_prompt() -> None:
    assert judge(CallableOracle(lengths), ["a prompt"] * 2, ["12345", "four"]) == [0.5, 0.4]


def test_with_judges_prompt_it_gets_both() -> None:
    oracle = CallableOracle(answers, judges_prompt=True)
    assert judge(oracle, ["yes", "no"], ["oh yes", "oh yes"]) == [1.0, 0.0]


def test_it_is_found_by_its_place_in_the_working_folder(module: Path) -> None:
    oracle = CallableOracle(f"{module.stem}:short")
    assert oracle.name == "short"
    assert judge(oracle, [""] * 2, ["one", "three"]) == [1.0, 0.0]


def test_arrays_are_as_good_as_lists() -> None:
    assert judge(CallableOracle(lambda outputs: np.array([0.5, 1.0])), [""] * 2, ["a", "b"]) == [0.5, 1.0]


def test_the_version_changes_with_the_file_of_the_function(module: Path) -> None:
    before = CallableOracle(f"{module.stem}:short").version
    assert CallableOracle(f"{module.stem}:short").version == before
    module.write_text(module.read_text().replace("limit = 3", "limit = 4"))
    assert CallableOracle(f"{module.stem}:short").version != before
    assert CallableOracle(f"{module.stem}:short", version="mine").version == "mine"


@pytest.mark.parametrize("place", ["json.dumps", "json:", ":dumps", ""])
def test_a_place_that_is_written_otherwise_shows_how_it_is_written(place: str) -> None:
    with pytest.raises(OracleError, match=r"written 'package\.module:function'"):
        CallableOracle(place)


def test_a_missing_module_says_where_it_was_looked_for(module: Path) -> None:
    with pytest.raises(OracleError, match=r"no module named 'no_such_module'.* or stand in .*"):
        CallableOracle("no_such_module.rules:short")


def test_a_module_that_needs_a_missing_one_says_which(module: Path) -> None:
    module.write_text("import a_package_nobody_has\n")
    with pytest.raises(OracleError, match=f"'a_package_nobody_has' .needed by {module.stem}."):
        CallableOracle(f"{module.stem}:short")


def test_a_module_that_raises_says_what(module: Path) -> None:
    module.write_text("1 / 0\n")
    with pytest.raises(OracleError, match="raised ZeroDivisionError"):
        CallableOracle(f"{module.stem}:short")


def test_a_missing_function_offers_the_nearest(module: Path) -> None:
    with pytest.raises(OracleError, match=r"has no 'shrt'; did you mean 'short'\?"):
        CallableOracle(f"{module.stem}:shrt")
    with pytest.raises(OracleError, match="is a int, not a function"):
        CallableOracle(f"{module.stem}:limit")
    with pytest.raises(OracleError, match="needs a function, got 3"):
        CallableOracle(3)  # type: ignore[arg-type]
