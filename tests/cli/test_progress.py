from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from adhere.cli.progress import Bars, Lines, duration, shown


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_when_a_stage_begins_and_then_one_every_few_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    report = Lines(stream, clock)
    for done in range(101):
        report("sample", done, 100, "8 tokens/s")
        clock.now += 0.5
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11  # 50 seconds, one every 5
    assert lines[0] == "[0:00] sample 0/100, 8 tokens/s"
    assert lines[1] == "[0:05] sample 10/100, 8 tokens/s, 0:45 left"


def test_a_stage_that_begins_again_gets_its_line_at_once() -> None:
    clock, stream = Clock(), io.StringIO()
    report = Lines(stream, clock)
    report("fit", 0, 2)
    report("fit", 2, 2)
    report("sample", 0, 0)
    report("fit", 0, 2)
    assert stream.getvalue().splitlines() == ["[0:00] fit 0/2", "[0:00] sample", "[0:00] fit 0/2"]


def test_the_time_left_counts_from_where_the_stage_began() -> None:
    clock, stream = Clock(), io.StringIO()
    report = Lines(stream, clock)
    report("train", 80, 100)
    clock.now = 10
    report("train", 90, 100)
    assert stream.getvalue().splitlines() == ["[0:00] train 80/100", "[0:10] train 90/100, 0:10 left"]


def test_a_line_in_a_log_is_one_line_without_escapes() -> None:
    stream = io.StringIO()
    Lines(stream, Clock())("st\nage", 0, 1, "\x1b[2J")
    assert stream.getvalue() == "[0:00] st\\nage 0/1, \\x1b[2J\n"


def test_without_a_terminal_progress_is_plain_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with shown() as report:
        report("train", 1, 3, "")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("[0:00] train 1/3")
    assert "\x1b" not in printed.err


def test_forced_colours_do_not_make_bars_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with shown() as report:
        report("train", 1, 3, "")
    assert "\x1b" not in capsys.readouterr().err


def test_on_a_terminal_there_is_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Terminal())
    with shown() as report:
        assert isinstance(report, Bars)
        report("train", 1, 3, "loss [bold]\x1b[2J")
        report.live.refresh()
    written = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "train" in written
    assert "1/3" in written
    assert "-:--:--" in written  # no estimate after one report
    assert r"loss [bold]\x1b[2J" in written


def test_a_stage_that_took_a_while_leaves_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(), io.StringIO()
    monkeypatch.setattr("adhere.cli.progress.time.monotonic", clock)
    bars = Bars(Console(file=stream, width=80))
    bars("sample [1]", 1, 2)
    clock.now = 65
    bars("sample [1]", 2, 2)
    bars("label", 1, 2)
    clock.now = 66
    bars.close()
    assert stream.getvalue() == "sample [1]  2/2  1:05\n"


@pytest.mark.parametrize(("seconds", "shown_as"), [(0.4, "0:00"), (59.6, "1:00"), (65, "1:05"), (7325, "2:02:05")])
def test_durations_read_like_a_clock(seconds: float, shown_as: str) -> None:
    assert duration(seconds) == shown_as
