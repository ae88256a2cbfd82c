"""Put the demo's result where people read it: a results file, and the table in the README.

python benchmarks/demo_table.py runs/demo
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from adhere.files import write_json_atomic, write_text_atomic
from adhere.report.headline import headline
from adhere.report.run_files import read_run
from adhere.report.tables import results_table

BEGIN, END = "<!-- demo -->", "<!-- end of demo -->"


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy the summary of a demo under benchmarks/results/ and make the README's table from it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="the run folder of `adhere demo`")
    run: Path = parser.parse_args(arguments).run
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    machine = summary["machine"]
    name = re.sub(r"[^a-z0-9]+", "-", f"{machine['cpu']}-{machine['cores']}-cores".lower()).strip("-")
    path = Path("benchmarks/results") / f"demo.{name}.json"
    write_json_atomic(path, summary)

    measurements = read_run(run).measurements
    table = results_table(measurements)
    if table is None:
        raise SystemExit(f"{run} holds no measurements")
    titles = [""] + [row.label for row in table.rows]
    lines = ["| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * len(table.rows)]
    for number, column in enumerate(table.columns):
        cells = [str(row.cells[number]).replace("\n", " ") for row in table.rows]
        lines.append(f"| {column.label} | " + " | ".join(cells) + " |")
    told = " ".join(headline(measurements))
    minutes = sum(summary["seconds"].values()) + sum(
        r["value"] for r in summary["rows"] if r["name"] == "train_seconds"
    )
    made = (
        f"Made by `make demo` on {machine['cpu']}, {machine['cores']} cores, {summary['date'][:10]}, seed "
        f"{', '.join(map(str, summary['seeds']))}, {minutes / 60:.0f} minutes of training and measuring; 95 % intervals; the "
        f"numbers are in `{path}`."
    )
    readme = Path("README.md")
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    body = "\n\n".join([BEGIN, told, "\n".join(lines), made, END])
    write_text_atomic(readme, before + body + after)


if __name__ == "__main__":
    main()
