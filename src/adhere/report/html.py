"""One HTML file that shows a run: it needs no network, and nothing in it can reach one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from adhere.files import write_text_atomic
from adhere.report.figures import training_figures, violations_figure
from adhere.report.headline import headline
from adhere.report.method import how_measured, judges
from adhere.report.page import fill
from adhere.report.run_files import Json, RunFiles, read_run
from adhere.report.samples import sample_views
from adhere.report.suites import suite_tables
from adhere.report.tables import other_names, results_table
from adhere.report.timeline import timeline_figure

REPORT = "report.html"
EVENTS = 200  # of a run's events are listed


def write_report(run_folder: Path) -> Path:
    """Make `report.html` in a run folder from whatever the run has written so far.

    Returns:
        the path of the report.

    Raises:
        RunFolderError: the folder does not exist, holds no run, or cannot be written to.
    """
    path = run_folder / REPORT
    write_text_atomic(path, render(read_run(run_folder)))
    return path


def render(run: RunFiles) -> str:
    """The page as text."""
    main = violations_figure(run.measurements)
    when = timeline_figure(run.events, run.log)
    curves = [*training_figures(run.log), *([when] if when is not None else [])]
    timeline = _timeline(run.events)
    return fill(
        "report.html.j2",
        has_figures=bool(main or curves),
        name=run.folder.resolve().name,
        date=_first(run, "date"),
        command=_first(run, "command"),
        seeds=_first(run, "seeds"),
        headline=headline(run.measurements),
        main_figure=main,
        curves=curves,
        table=results_table(run.measurements),
        more=results_table(run.measurements, other_names(run.measurements)),
        suites=suite_tables(run.suites, run.suite_notes),
        samples=sample_views(run),
        judges=judges(run),
        measured=how_measured(run.measurements),
        recipe=run.recipe,
        facts=[(title, list(facts)) for title, facts in _facts(run) if facts],
        faults=[
            str(event["sentence"]) for event in run.events if event.get("event") == "fault" and "sentence" in event
        ],
        events=timeline[:EVENTS],
        all_events=len(timeline),
        unreadable=run.unreadable,
    )


def _first(run: RunFiles, key: str) -> str:
    """A fact of the run as text: from its manifest, else from its summary."""
    value = run.manifest.get(key, run.summary.get(key))
    return "" if value is None else _text(value)


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _facts(run: RunFiles) -> Iterator[tuple[str, Sequence[tuple[str, str]]]]:
    """Versions, machine and the rest of the manifest, as named values."""
    merged = {**run.summary, **run.manifest}
    named = ("versions", "machine", "command", "seeds", "date", "digests")
    yield "Versions", list(_flat(merged.get("versions")))
    yield "Machine", list(_flat(merged.get("machine")))
    yield "Manifest", list(_flat({key: value for key, value in merged.items() if key not in named}))


def _flat(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif value not in (None, "", []):
        yield name, _text(value)


def _timeline(events: Sequence[Json]) -> list[tuple[str, str, str, str]]:
    """(seconds since the first event, step, event, the rest), batches of one part in one line."""
    times = [time for event in events if isinstance(time := event.get("time"), int | float)]
    # Of the batches of one part, the last one tells all.
    events = [
        event
        for event, after in pairwise([*events, {}])
        if not ("batch" in event and all(event.get(key) == after.get(key) for key in ("event", "step")))
    ]
    rows = []
    for event in events:
        time = event.get("time")
        since = f"{time - times[0]:.1f}" if isinstance(time, int | float) else ""
        rest = {key: value for key, value in event.items() if key not in ("event", "step", "time")}
        told = ", ".join(f"{key} {value}" for key, value in _flat(rest))
        rows.append((since, str(event.get("step", "")), str(event.get("event", "")), told))
    return rows
