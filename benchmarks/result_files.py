"""What a speed benchmark leaves: one JSON file (the form is design's), and sections of a document made from it."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")

Rows = list[dict[str, Any]]


def results_path(folder: Path, benchmark: str) -> Path:
    """Where the results of a benchmark on this machine lie."""
    from adhere.recipe.manifest import machine

    return folder / f"{benchmark}.{machine_name(machine())}.json"


def machine_name(machine: dict[str, Any]) -> str:
    """A machine in a file's name: its kind and size, not what its owner calls it."""
    kind = machine.get("gpu") or f"{machine['cpu']}-{machine['cores']}-cores"
    return re.sub(r"[^a-z0-9]+", "-", str(kind).lower()).strip("-")


def write_results(path: Path, benchmark: str, rows: Rows, seeds: Sequence[int] = (0,)) -> None:
    """Write the file whole, with the machine, the versions and the command that is running."""
    from adhere.files import write_json_atomic
    from adhere.recipe.manifest import command, machine, now, versions

    told = {"benchmark": benchmark, "command": command(), "date": now(), "machine": machine(), "versions": versions()}
    write_json_atomic(path, {**told, "seeds": list(seeds), "rows": rows})


def read_results(path: Path) -> dict[str, Any]:
    """A results file."""
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return told


def median_row(name: str, values: Sequence[float], unit: str, **tags: Any) -> dict[str, Any]:
    """The median of several runs; `low` and `high` are the smallest and the largest of them."""
    spread = {"low": min(values), "high": max(values), "n": len(values), "unit": unit, "interval": "range of the runs"}
    return {"name": name, "value": statistics.median(values), **spread, **tags}


def ratio_row(name: str, above: Sequence[float], below: Sequence[float], **tags: Any) -> dict[str, Any]:
    """How many times as much: each run by the one taken in the same turn, so that what slows a turn slows both."""
    return median_row(name, [a / b for a, b in zip(above, below, strict=False)], "×", **tags)


def put_between(document: Path, mark: str, text: str) -> None:
    """Put text between `<!-- mark -->` and `<!-- end of mark -->` of a document; what stands round it stays."""
    from adhere.files import write_text_atomic

    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, found, rest = document.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{document} has no {begin} ... {end} to put the table between")
    write_text_atomic(document, f"{before}{begin}\n\n{text}\n{end}{after}")


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text, the others numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines])


def made_by(told: dict[str, Any], path: Path) -> str:
    """The sentence that says where a table's numbers come from."""
    machine = told["machine"]
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"
    return f"Made by `{told['command']}` on {where}, {told['date'][:10]}; the numbers are in `{path}`."


def shown(row: dict[str, Any] | None, form: str = "{:.2f}") -> str:
    """A value with its range."""
    if row is None:
        return "–"
    value = form.format(row["value"])
    if row.get("low") is None or row["low"] == row["high"]:
        return value
    return f"{value} [{form.format(row['low'])}, {form.format(row['high'])}]"
