"""One HTML file that shows a run: it needs no network, and nothing in it can reach one.

Everything that comes from a run is escaped by Jinja2, and the page's content security policy names the two scripts it
may run by their digests: text that a model wrote cannot become code, even if escaping failed.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from adhere.files import write_text_atomic
from adhere.report.figures import training_figures, violations_figure
from adhere.report.headline import headline
from adhere.report.method import how_measured, judges
from adhere.report.run_files import Json, RunFiles, read_run
from adhere.report.samples import sample_views
from adhere.report.tables import other_names, results_table

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
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("adhere.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    own_script, plotly = _source(environment, "report.js"), get_plotlyjs()
    main = violations_figure(run.measurements)
    curves = training_figures(run.log)
    timeline = _timeline(run.events)
    return environment.get_template("report.html.j2").render(
        name=run.folder.resolve().name,
        date=_first(run, "date"),
        command=_first(run, "command"),
        seeds=_first(run, "seeds"),
        headline=headline(run.measurements),
        main_figure=main,
        curves=curves,
        table=results_table(run.measurements),
        more=results_table(run.measurements, other_names(run.measurements)),
        samples=sample_views(run),
        judges=judges(run),
        measured=how_measured(run.measurements),
        recipe=run.recipe,
        facts=[(title, list(facts)) for title, facts in _facts(run) if facts],
        events=timeline[:EVENTS],
        all_events=len(timeline),
        unreadable=run.unreadable,
        style=Markup(_source(environment, "report.css")),
        own_script=Markup(own_script),
        plotly=Markup(plotly) if main or curves else "",
        script_digests=[_digest(own_script), *([_digest(plotly)] if main or curves else [])],
    )


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _digest(script: str) -> str:
    """The script as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _unbroken(sentence: str) -> str:
    """A sentence whose numbers stay on one line with their unit and interval."""
    return re.sub(r"(?<=\d) (?=%|to \d)|(?<=\d to) (?=\d)|(?<=%) (?=\()", "\N{NO-BREAK SPACE}", sentence)


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
    named = ("versions", "machine", "command", "seeds", "date")
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
