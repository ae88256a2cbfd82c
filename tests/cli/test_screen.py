from __future__ import annotations

import pytest

from adhere.cli.screen import complain, fields, indented, say, visible


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J\x1b[31mred", r"\x1b[2J\x1b[31mred"),  # clears the screen
        ("a\rb", r"a\rb"),  # writes over the line
        ("a\x08b\x07", r"a\x08b\x07"),
        ("\x9b31m", r"\x9b31m"),  # the one-byte form of ESC [
        ("abc\u202ecba", r"abc\u202ecba"),  # what follows reads backwards
        ("a\u2028b", r"a\u2028b"),
        ("\ud800", r"\ud800"),
        ("\x00", r"\x00"),
    ],
)
def test_what_would_steer_the_terminal_becomes_its_escape(hostile: str, shown: str) -> None:
    assert visible(hostile) == shown


@pytest.mark.parametrize(
    "harmless", ["naïve café", "two\nlines\tand a tab", "日本語", "[bold]", "👩\u200d🔬", "می\u200cخواهم"]
)
def test_ordinary_text_stays_as_it_is(harmless: str) -> None:
    assert visible(harmless) == harmless


def test_one_line_text_stays_on_one_line() -> None:
    assert visible("a\nb\tc", one_line=True) == r"a\nb\tc"


def test_markup_emoji_codes_and_escapes_of_the_users_are_printed_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold]x[/bold] [/nothing] :smile: \x1b[31m"
    say(text, indented(text), fields(text, [(text, text)]))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert printed.replace("\n", "").count("[bold]x[/bold]") >= 2
    assert ":smile:" in printed


def test_a_long_path_is_not_broken_over_lines(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["folder"] * 60)
    say(path)
    complain(path)
    printed = capsys.readouterr()
    assert printed.out == path + "\n"
    assert printed.err == path + "\n"
