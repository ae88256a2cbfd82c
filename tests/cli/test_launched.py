"""Under a launcher: who speaks, and which commands run there."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from adhere.cli import group
from adhere.cli.main import app
from adhere.errors import HealthError, OracleError, PeerError

LAUNCHED = {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(("process", "said"), [("0", True), ("1", False)])
def test_only_training_and_its_plan_run_in_several_processes(process: str, said: bool) -> None:
    done = CliRunner().invoke(app, ["doctor"], env={**LAUNCHED, "RANK": process})
    assert done.exit_code == 2
    assert ("`adhere doctor` runs in one process, and a launcher has started 2" in done.output) == said
    assert done.output.strip() == "" or said


@pytest.mark.parametrize(
    ("error", "told_by"),
    [
        (OracleError("broken here"), ("0", "1")),  # wherever it comes up
        (PeerError("process 1 of this run stopped"), ()),  # that one has said why
        (HealthError("in all of them"), ("0",)),
    ],
)
@pytest.mark.parametrize("process", ["0", "1"])
def test_an_error_is_told_once(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told_by: tuple[str, ...], process: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(group, "_GRACE", 0.0)
    monkeypatch.setattr("adhere.ranks.join", lambda: 2)
    monkeypatch.setattr("adhere.recipe.load.load_recipe", broken)
    done = CliRunner().invoke(app, ["train", "recipe.yaml"], env={**LAUNCHED, "RANK": process})
    assert done.exit_code == 2
    assert (str(error) in done.output) == (process in told_by)
