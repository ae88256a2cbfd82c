"""The fault matrix as a table: fault × place, what happened, what was lost."""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]

_HAPPENED = {
    "kill -9": "the process was gone at once; `--resume` went on",
    "Ctrl-C": "exit code 130 and the command to go on with; `--resume` went on",
    "disk full": "exit code 2 and “no space left”; with room again `--resume` went on",
    "two processes": "the second ended with exit code 2 and named the first, which went on",
    "worker dies": "the attempt counted as failed; training went on, the run ended by itself",
}


def fault_table(rows: Rows) -> str:
    """Markdown; one line for each fault and place."""
    lines = [
        "| fault | where it strikes | what happened | times | lost | weights equal to the bit |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for fault, place in dict.fromkeys((row["fault"], row["place"]) for row in rows):
        mine = [row for row in rows if (row["fault"], row["place"]) == (fault, place)]
        of = {name: [row for row in mine if row["name"] == name] for name in ("lost", "bit_equal")}
        lost = f"{sum(row['value'] for row in of['lost']):g} {of['lost'][0]['unit']}"
        equal = (
            f"{sum(row['value'] for row in of['bit_equal']):g} of {len(of['bit_equal'])}" if of["bit_equal"] else "–"
        )
        lines.append(f"| {fault} | {place} | {_happened(fault, mine)} | {len(of['lost'])} | {lost} | {equal} |")
    return "\n".join(lines)


def _happened(fault: str, rows: Rows) -> str:
    if fault in _HAPPENED:
        said = (
            _HAPPENED[fault].replace("`--resume` went on", "it went on")
            if rows[0]["place"] == "report"
            else _HAPPENED[fault]
        )
        return said.replace("with room again it went on", "the report before it stands; with room again it was written")
    calls = next((row for row in rows if row["name"] == "calls_made_over_needed"), None)
    invented = next((row for row in rows if row["name"] == "invented"), None)
    if calls is None or invented is None:
        return ""
    return (
        f"of {calls['n']:,} verdicts {invented['value']:g} were invented; {calls['made']:,} calls for {calls['needed']:,} "
        f"texts ({calls['value']:.2f} ×)"
    )
