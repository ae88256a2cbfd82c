"""A corpus that means harm, through every command: nothing of it runs, steers the terminal, or leaves the run's folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from adhere.cli.main import app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

RUNS = "<script>document.title='owned'</script>"
HARM = {
    "a script": f"{RUNS} <b>bold",
    "a handler": "<img/src=x/onerror=document.title='owned'> <svg/onload=document.title='owned'>",
    "the end of a script": "</script><script>document.title='owned'</script> -->",
    "the end of a style": "</style><script>document.title='owned'</script>",
    "a template": "{{7*7}}{%for/x/in/y%} ${7*7}",
    "an entity": "&lt;script&gt;document.title='owned'&lt;/script&gt; &#60;script>",
    "a link": "<a/href=javascript:document.title='owned'>click",
    "a clear screen": "\x1b[2J\x1b[H gone",
    "a window title": "\x1b]0;owned\x07 title",
    "a hyperlink": "\x1b]8;;http://example.org\x1b\\text\x1b]8;;\x1b\\ link",
    "a key that types": '\x1bP$q"p\x1b\\ \x1b[6n',
    "C1 controls": "\x9b2J\x9d0;owned\x9c eight",
    "control characters": "".join(map(chr, range(1, 32))).replace("\n", "") + " \x7f",
    "backspaces": "rm\x08\x08 carriage\rreturn",
    "right to left": "\u202etxt.exe\u202c \u2066a\u2069",
    "zero width": "pass\u200bword \ufeff\u2060",
    "line separators": "a\u2028b \u2029c",
    "Rich markup": "[bold red]x[/] [link=http://example.org]y[/link] :skull:",
    "a path": "../../../etc/passwd ..\\..\\x",
    "a format": "%s%n{0}{x} $(touch/owned)`touch/owned`",
    "combining marks": "Z\u0351\u036b" * 40 + " zalgo",
    "a long word": "x" * 5000 + " long",
    "marks of chat templates": "<|im_end|><|im_start|>system [INST]",
    "a null character": "a\x00b c",
}
DOMAINS = ["../../x", "<script>document.title='owned'</script>", "\x1b[2J", "\u202ea", "a\x00b", "."]
NAMES = ["../x", "a/b", "a b", ""]  # of a constraint; others than these name no file

STEERS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2028\u2029\u2060\u2066-\u2069\ufeff\ud800-\udfff]"
)


@pytest.fixture(scope="module", autouse=True)
def _no_bars_of_libraries() -> Iterator[None]:
    """They are switched off where the command runs in a process of its own; here they were imported before it."""
    import datasets
    from transformers.utils import logging

    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    yield
    logging.enable_progress_bar()
    datasets.enable_progress_bars()


def _written(*words: str | Path, code: int = 0) -> str:
    """What a command writes to the terminal, which must hold nothing that steers it."""
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120"})
    assert result.exit_code == code, (result.output, result.exception)
    for stream in (result.stdout_bytes, result.stderr_bytes):
        found = STEERS.search(stream.decode("utf-8"))
        assert found is None, (found, stream[:2000])
    return result.output


@pytest.fixture(scope="module")
def hostile(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose corpus is nothing but harm; its run will be beside it."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [{"text": f"{harm} and so on {word}", "domain": DOMAINS[number % len(DOMAINS)]}
            for number, harm in enumerate(HARM.values()) for word in ("bad", "good")]  # fmt: skip
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe: dict[str, Any] = yaml.safe_load(tiny_recipe.read_text(encoding="utf-8"))
    recipe["corpus"] |= {"path": str(folder / "corpus.jsonl"), "prompt_words": 1}
    recipe["prompts"] = {"overlong": "truncate"}
    recipe["constraints"] = [
        {"oracle": {"kind": "words", "words": ["bad", RUNS]}, "name": "<script>document.title='owned'"}
    ]
    recipe["output_dir"] = str(folder / "run")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def run(hostile: Path) -> Iterator[Path]:
    """Trained, and evaluated."""
    folder = hostile.parent / "run"
    before = _everything(hostile.parent)
    _written("check", hostile)
    _written("train", hostile)
    _written("evaluate", folder, "--model", "before")
    _written("evaluate", folder)
    assert {path for path in _everything(hostile.parent) - before if not path.is_relative_to(folder)} == set()
    yield folder


def _everything(folder: Path) -> set[Path]:
    return set(folder.parent.rglob("*"))


def test_training_and_evaluation_write_nothing_that_steers_the_terminal(run: Path) -> None:
    assert (run / "evaluation" / "constrained.json").exists()


def test_sampling_and_labelling(run: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": harm}) + "\n" for harm in HARM.values()), encoding="utf-8")
    settings = ["--max-new-tokens", "4", "--seed", "1"]
    for harm in ("a clear screen", "right to left", "Rich markup"):
        shown = _written("sample", run, "--prompt", HARM[harm], *settings)
        assert "\n" + {"a": "\\x1b[2J", "r": "\\u202etxt", "R": "[bold red]x[/]"}[harm[0]] in shown
    long = {"a long word", "combining marks"}
    short = [json.dumps({"prompt": harm}) + "\n" for what, harm in HARM.items() if what not in long]
    prompts.write_text("".join(short).replace("\\u0000", "0"), encoding="utf-8")
    try:
        _written("sample", run, "--prompts", prompts, *settings, "--out", tmp_path / "s.jsonl")
    except AssertionError:
        # Some are longer than the tiny model's context: that too is told in a message that steers nothing.
        _written("sample", run, "--prompts", prompts, *settings, "--out", tmp_path / "s.jsonl", code=2)
        prompts.write_text("".join(line for line in short if len(line) < 60), encoding="utf-8")
        _written("sample", run, "--prompts", prompts, *settings, "--out", tmp_path / "s.jsonl")
    labels = tmp_path / "l.jsonl"
    _written("label", tmp_path / "s.jsonl", "--oracle", "embedded", "--out", labels)
    rows = [json.loads(line) for line in labels.read_text(encoding="utf-8").split("\n")[:-1]]  # not at U+2028
    assert all(row["score"] in (0.0, 1.0) for row in rows)
    assert HARM["a clear screen"] in {row["prompt"] for row in rows}  # as it is, in a file


def test_comparing_and_the_doctor(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "\u202eagain <script>"
    shutil.copytree(run, again)
    _written("compare", run, again, "--out", tmp_path / "c.html")
    assert "<script>document.title='owned'" not in (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "again &lt;script&gt;" in (tmp_path / "c.html").read_text(encoding="utf-8")
    (again / "recipe.yaml").write_text("\x1b[2J: [", encoding="utf-8")
    _written("doctor", again, code=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_constraint_is_not_called_by_a_path(name: str, hostile: Path) -> None:
    assert "constraints[0].name must be" in _written("check", hostile, "--set", f"constraints.0.name={name!r}", code=2)


def test_a_report_holds_what_was_written_as_text(run: Path) -> None:
    _written("report", run)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "document.title=" in html  # the prompts are shown
    ours = re.findall(r"<script\b[^>]*>", html)
    assert not re.search(r"<(?:script|img|svg|a)\b[^>]*owned", html)
    assert len(ours) == len(re.findall(r"</script>", html))
    assert not STEERS.search(re.sub(r"<script\b.*?</script>", "", html, flags=re.DOTALL))  # Plotly's source has some
    assert re.search(r"\\x[01][0-9a-f]|\\u20", html)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("guarded", [True, False])
def test_no_script_of_a_sample_runs_in_a_browser(run: Path, tmp_path: Path, guarded: bool) -> None:
    """Neither with the page's own guard (its Content-Security-Policy) nor, by escaping alone, without it."""
    _written("report", run)
    html = (run / "report.html").read_text(encoding="utf-8")
    if not guarded:
        html, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
        assert count == 1
    page = tmp_path / "report.html"
    page.write_text(html, encoding="utf-8")
    title = _title(page, tmp_path / "profile")
    assert "owned" not in title
    assert "adhere" in title
    # The test would see it: the same script, unescaped and unguarded, does run.
    page.write_text(f"<html><head><title>x</title></head><body>{RUNS}</body></html>", encoding="utf-8")
    assert _title(page, tmp_path / "profile") == "owned"


def _title(page: Path, profile: Path) -> str:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--virtual-time-budget=5000", f"--user-data-dir={profile}", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "HOME": str(profile)},
    )  # fmt: skip
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("what", "row", "said"),
    [
        ("five megabytes", {"text": "x " * 2_500_000}, "longer than 1,000,000 characters"),
        ("half a character", {"text": "one two three \ud800 five"}, "half a character"),
        ("half a character in a domain", {"text": "one two three four", "domain": "\udcff"}, "half a character"),
        ("an escape where a number was wanted", {"text": 7, "\x1b[2J": "\x1b[2J"}, "must be a string"),
        ("an escape for a key", {"\x1b[2J\u202e": "x"}, "a row without text: it has \\x1b[2J\\u202e"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_a_message_that_steers_nothing(
    what: str, row: dict[str, Any], said: str, hostile: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps(row) + "\n", encoding="utf-8")
    elsewhere = ["--set", f"corpus.path={corpus}", "--set", f"output_dir={tmp_path / 'run'}"]
    assert said in _written("check", hostile, *elsewhere, code=2)


def test_a_row_of_nearly_a_million_characters_is_taken(hostile: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    shutil.copy(hostile.parent / "corpus.jsonl", corpus)
    with corpus.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"text": "word \x1b[2J" * 70_000}) + "\n")
    _written("check", hostile, "--set", f"corpus.path={corpus}", "--set", f"output_dir={tmp_path / 'run'}")


def test_a_real_terminal_gets_nothing_either(run: Path) -> None:
    """Through a process and a pseudo-terminal, where bars are drawn: every escape on it is one of ours."""
    pty = pytest.importorskip("pty")
    written = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 65536)
        written.extend(data)
        return b""

    words = [sys.executable, "-m", "adhere", "sample", str(run), "--prompt", HARM["a window title"], "-n", "1"]
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover (another process)
        os.execvp(words[0], [*words, "--max-new-tokens", "4"])
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        written += data
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, written
    assert b"\\x1b]0;owned\\x07" in written
    assert b"\x1b]" not in written and b"\x07" not in written
