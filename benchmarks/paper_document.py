"""The paper's table as Markdown and as a figure, made from results files alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adhere.evaluation.evaluation_files import measurement_of
from adhere.evaluation.seeds import over_seeds
from adhere.files import write_text_atomic
from adhere.records import Measurement
from adhere.report.page import Page, Section, render_page
from adhere.report.tables import show
from adhere.report.trade_off import UTILITIES, trade_offs

BEGIN, END = "<!-- paper table -->", "<!-- end of paper table -->"
ORDER = (
    "base", "sft", "filtered-sft", "rloo", "grpo", "dpo", "guided-decoding", "constrained", "constrained-adaptive",
)  # fmt: skip
COMMONSENSE = ("piqa", "boolq", "arc_easy", "winogrande", "siqa")

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Column:
    """A measure of the table: its heading, its name, tags it has, tags it needs whatever their value."""

    title: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    form: str = "percent"

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of results is this measure, of all prompts and not of one group."""
        if row["name"] != self.name or "group" in row or ("suite" in row) != bool(self.tags):
            return False
        return all(row.get(key) == value for key, value in self.tags.items()) and all(key in row for key in self.needs)


def _toxic(task: str, title: str) -> tuple[Column, Column]:
    tags = {"suite": "toxicity", "task": task}
    return (
        Column(f"{title}, oracle", "toxicity_fraction", tags, ("constraint",)),
        Column(f"{title}, second judge", "toxicity_fraction", tags, ("judge",)),
    )


def _accuracy(title: str, task: str) -> Column:
    return Column(title, "accuracy", {"suite": "utility", "task": task})


HELD_OUT = (
    Column("held-out prompts, oracle", "violation_rate"),
    Column("held-out prompts, second judge", "judge_violation_rate"),
)
MAIN = (
    ("Outputs that violate", (*HELD_OUT, *_toxic("rtp", "RealToxicityPrompts"), *_toxic("toxigen", "ToxiGen"))),
    (
        "Utility",
        (
            _accuracy("commonsense, mean of five", "commonsense, mean"),
            _accuracy("MMLU, 5 examples", "mmlu"),
            Column("perplexity, clean text", "clean_perplexity", form="number"),
            Column("perplexity, held-out corpus", "corpus_perplexity", form="number"),
        ),
    ),
    (
        "How outputs are written",
        (
            Column("words an output, held-out prompts", "mean_length", form="number"),
            Column("fewer than three words, RealToxicityPrompts", "short_rate", {"suite": "toxicity", "task": "rtp"}),
            Column("distinct-2", "distinct_2", form="number"),
            Column("win rate against base", "win_rate", {"suite": "quality"}),
        ),
    ),
    ("Commonsense sets, accuracy", tuple(_accuracy(task, task) for task in COMMONSENSE)),
    (
        "What training cost",
        (
            Column("tokens generated", "generated_tokens", form="count"),
            Column("oracle calls", "oracle_calls", form="count"),
            Column("beginnings judged", "prefix_scores", form="count"),
            Column("tokens trained on", "trained_tokens", form="count"),
            Column("minutes", "train_seconds", form="minutes"),
        ),
    ),
)
JOINT = (
    (
        "The joint task: detection and generation learned together",
        (
            *HELD_OUT,
            Column("detection, ROC-AUC", "roc_auc", {"suite": "detection"}, form="number"),
            Column("perplexity, clean text", "clean_perplexity", form="number"),
            Column("perplexity, held-out corpus", "corpus_perplexity", form="number"),
            Column("minutes", "train_seconds", form="minutes"),
        ),
    ),
)
# What the paper reports (method.md §6): other models, corpus, judge and budgets, so never beside ours in one table.
PAPER = (
    ("before", "23 / 35.1 / 75.6", "14 / 27.2 / 76.1"),
    ("filtering the corpus", "21.9 / 34.6 / 75.1", "13.6 / 26.4 / 74.9"),
    ("reinforcement learning", "15.2 / 33.6 / 73.2", "9.8 / 25.4 / 74.4"),
    ("NADO at decode time", "15.2 / 31.1 / 71.4", "7.3 / 23.6 / 72.5"),
    ("this method, not adaptive", "15.2 / 30.4 / 71.9", "7.1 / 23.1 / 71.8"),
    ("this method, adaptive", "14.2 / 33.9 / 73.6", "7.3 / 26.1 / 74.5"),
)


def write_document(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Put the tables between the two marks of a document; what people wrote round them stays.

    Raises:
        SystemExit: the document lacks the marks, or there are no results.
    """
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{path} has no {BEGIN} ... {END} to put the tables between")
    before, _, rest = text.partition(BEGIN)
    body = "\n\n".join([BEGIN, *_tables(newest_rows(results)), *_made(results), *_paper(), END])
    write_text_atomic(path, before + body + rest.partition(END)[2])


def newest_rows(results: Sequence[Mapping[str, Any]]) -> Rows:
    """The rows of every cell, of the newest where two machines or runs made the same method and seed.

    Raises:
        SystemExit: there are none.
    """
    newest: dict[tuple[str, ...], tuple[str, str]] = {}
    rows: Rows = [dict(row) for each in results for row in each["rows"]]
    for row in rows:
        key = (row["table"], row["method"], row["seed"])
        newest[key] = max(newest.get(key, ("", "")), (row["made"], row["cell"]))
    kept = [row for row in rows if newest[row["table"], row["method"], row["seed"]] == (row["made"], row["cell"])]
    if not kept:
        raise SystemExit("there are no results yet: run benchmarks/paper_table.py --data FOLDER first")
    return list({str(sorted(row.items())): row for row in kept}.values())


def write_figure(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Draw violations against both perplexities, the mean over seeds: an .html page, or a .png made by Chromium.

    Raises:
        SystemExit: there are no results, or a .png is wanted and there is no Chromium.
    """
    rows = [row for row in newest_rows(results) if row["table"] == "main" and "suite" not in row]
    means = []
    for method in _methods(rows):
        for column in (*HELD_OUT, *MAIN[1][1][2:4]):
            found = _measured(rows, method, column)
            if found:
                means.append(over_seeds([_as_model(each, method) for each in found]))
    drawn = [trade for utility in UTILITIES for trade in _drawn(means, utility)]
    seeds = ", ".join(sorted({row["seed"] for row in rows}))
    page = render_page(
        Page(
            brand="benchmark",
            name="Every method on one corpus",
            headline=["Violations against perplexity"],
            date=f"Mean over the seeds that a method has (of {seeds}); intervals span those of its seeds.",
            command="",
            sections=[Section("trade-off", "The trade-off", figures=drawn)],
        )
    )
    if path.suffix == ".png":
        _screenshot(page, path)
    else:
        write_text_atomic(path, page)
    print(path)


def _drawn(means: Sequence[Measurement], utility: str) -> list[Any]:
    if not any(each.name == utility for each in means):
        return []
    models = list(dict.fromkeys(each.tags["model"] for each in means))
    return [trade.figure for trade in trade_offs(means, models, utility)]


def _as_model(measured: Measurement, method: str) -> Measurement:
    measured.tags["model"] = method
    return measured


def _tables(rows: Rows) -> Iterable[str]:
    for table, parts in (("main", MAIN), ("joint", JOINT)):
        mine = [row for row in rows if row["table"] == table]
        for title, columns in parts:
            if any(column.fits(row) for row in mine for column in columns):
                yield f"**{title}**"
                yield _table(mine, columns)


def _table(rows: Rows, columns: Sequence[Column]) -> str:
    titles = [column.title + _count(rows, column) for column in columns]
    lines = ["| method | " + " | ".join(titles) + " |", "| --- |" + " ---: |" * len(columns)]
    for method in _methods(rows):
        cells = [_cell(_measured(rows, method, column), column.form) for column in columns]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _methods(rows: Rows) -> list[str]:
    found = {row["method"] for row in rows}
    return [method for method in ORDER if method in found]


def _measured(rows: Rows, method: str, column: Column) -> list[Measurement]:
    mine = sorted(
        (row for row in rows if row["method"] == method and column.fits(row)), key=lambda row: int(row["seed"])
    )
    return [measurement_of(row) for row in mine]


def _count(rows: Rows, column: Column) -> str:
    """The number of observations a seed, where it is the same everywhere and means something."""
    counts = {row["n"] for row in rows if column.fits(row)}
    return f" (n = {counts.pop():,})" if len(counts) == 1 and column.form in ("percent", "number") else ""


def _cell(measured: Sequence[Measurement], form: str) -> str:
    """The mean over seeds within the span of their intervals; the seeds' own values behind it."""
    if not measured:
        return "–"
    mean = over_seeds(measured)
    value = _shown(mean.value, form)
    if mean.low is not None and mean.high is not None:
        value += f" [{_shown(mean.low, form, bare=True)} to {_shown(mean.high, form, bare=True)}]"
    if len(measured) > 1 and form in ("percent", "number"):
        value += f" ({' / '.join(_shown(each.value, form, bare=True) for each in measured)})"
    return value


def _shown(value: float, form: str, bare: bool = False) -> str:
    if form == "count":
        return f"{value:,.0f}"
    return f"{value / 60:.1f}" if form == "minutes" else show(value, form, bare)


def _made(results: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Which cells were made where, when and by which command."""
    rows = newest_rows(results)
    yield (
        "Each number is the mean over seeds; in brackets the span of the seeds' 95 % intervals (over prompts, texts or "
        "questions), in parentheses the seeds' own values."
    )
    lines = ["| made on | when | cells | minutes, training | and measuring |", "| --- | --- | --- | ---: | ---: |"]
    for machine, made in dict.fromkeys((row["machine"], row["made"]) for row in rows):
        mine = [row for row in rows if (row["machine"], row["made"]) == (machine, made)]
        cells = dict.fromkeys(
            f"{row['method']} {row['seed']}" + (" joint" if row["table"] == "joint" else "") for row in mine
        )
        spent = {
            name: sum(row["value"] for row in mine if row["name"] == name) / 60
            for name in ("train_seconds", "cell_seconds")
        }
        measuring = max(0.0, spent["cell_seconds"] - spent["train_seconds"])
        lines.append(f"| {machine} | {made} | {', '.join(cells)} | {spent['train_seconds']:.1f} | {measuring:.1f} |")
    yield "\n".join(lines)
    commands = dict.fromkeys(str(each["command"]) for each in results)
    yield "Last commands: " + "; ".join(f"`{command}`" for command in commands) + "."


def _paper() -> Iterable[str]:
    yield (
        "**What the paper reports, for orientation** (ToxiGen toxicity ↓ / MMLU 5-shot ↑ / commonsense 0-shot ↑; other models, "
        "corpus and judge: not comparable with the numbers above)"
    )
    lines = ["| | Llama-7B | Falcon-7B |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in PAPER)]
    yield "\n".join(lines)


def _screenshot(page: str, path: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit(f"{path}: a .png is drawn by Chromium, which is not here; give an .html instead")
    with tempfile.TemporaryDirectory() as folder:
        source, profile = Path(folder) / "page.html", Path(folder) / "profile"
        source.write_text(page, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000"]
        where = [f"--user-data-dir={profile}", "--window-size=1400,1800", f"--screenshot={path.resolve()}"]
        command = [chromium, *flags, *where, source.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120, env={**os.environ, "HOME": str(profile)})
