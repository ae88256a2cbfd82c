"""How many broken recipes, corpora, command lines and answers the tests try, and how each ended.

    python benchmarks/broken_input.py    # runs the tests; writes benchmarks/results/broken_input.<machine>.json
    python benchmarks/broken_input.py --table docs/reliability.md    # from the results file; runs nothing

A row of the results is a kind of broken thing: how many were tried, and how many did not end as they should have (a traceback,
an unclear message, a run folder that was made all the same).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from result_files import RESULTS, Rows, made_by, markdown_table, put_between, read_results, results_path, write_results

BENCHMARK = "broken_input"
TESTS = Path("tests/faults/test_broken_input.py")


def run() -> Rows:
    """Run the tests, and read what they counted; stops where one fails, since its count means nothing then."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            str(TESTS),
            f"--junit-xml={report}",
            "-o",
            "junit_family=xunit1",
        ]
        if subprocess.run(command, check=False).returncode != 0:
            raise SystemExit("a test fails: no results are written")
        return rows_of(report.read_text(encoding="utf-8"))


def rows_of(report: str) -> Rows:
    """The counts in a report of pytest."""
    properties = [(each.get("name", ""), each.get("value", "")) for each in ET.fromstring(report).iter("property")]
    found = [(kind, int(value)) for kind, value in properties if value.isdigit()]  # Hypothesis leaves others there
    told: Rows = []
    for kind, count in found:
        told.append({"name": "tried", "value": count, "n": count, "unit": "cases", "kind": kind})
        told.append({"name": "ended_otherwise", "value": 0, "n": count, "unit": "cases", "kind": kind})
    return told


def table(rows: Rows) -> str:
    """One line for each kind, and the sum."""
    counts = {row["kind"]: row["value"] for row in rows if row["name"] == "tried"}
    wrong = {row["kind"]: row["value"] for row in rows if row["name"] == "ended_otherwise"}
    lines = [[kind, f"{count:,}", f"{wrong[kind]:,}"] for kind, count in counts.items()]
    total = ["together", f"{sum(counts.values()):,}", f"{sum(wrong.values()):,}"]
    return markdown_table(["broken", "tried", "not refused clearly, or too late"], [*lines, total])


def main(words: list[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--table", type=Path, help="put the table of the results into a document, and run nothing")
    asked = parser.parse_args(words)
    path = results_path(asked.results, BENCHMARK)
    if asked.table is not None:
        told = read_results(path)
        put_between(asked.table, "broken input", f"{table(told['rows'])}\n\n{made_by(told, path)}\n")
        return
    write_results(path, BENCHMARK, run())
    print(path)


if __name__ == "__main__":
    main()
