"""The timeline of a run, from the times it has written down itself: when the model was trained, when training waited, and when
outputs were sampled, judged and guidance was fitted. With the parallel schedule the lanes overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from adhere.report.figures import COLOURS, Figure, finished_figure
from adhere.report.run_files import Json, number

LANES = ("training", "waiting", "sampling", "labelling", "fitting")
FAILED = "refresh failed"
PAUSE = 60.0
"""Seconds in which nothing happens, as between a stop and --resume, are left out where there are more of them."""

_REFRESH = ("sampling", "labelling", "fitting")


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a run: seconds since the run began, pauses left out."""

    part: str
    iteration: int
    begin: float
    end: float


def timeline_figure(events: Sequence[Json], log: Sequence[Json]) -> Figure | None:
    """The lanes of a run; None for one that has written no times.

    Args:
        events: of the run.
        log: its training log, which says how stale guidance was.
    """
    found = [span for event in events if (span := _span(event)) is not None]
    if not found:
        return None
    origin = _Clock(found)
    spans = [Span(s.part, s.iteration, origin.at(s.begin), origin.at(s.end)) for s in found]
    figure = go.Figure()
    for place, part in enumerate(LANES):
        lane = [span for span in spans if span.part == part]
        if lane:
            figure.add_bar(
                name=part,
                orientation="h",
                y=[part] * len(lane),
                base=[span.begin for span in lane],
                x=[span.end - span.begin for span in lane],
                width=0.6,
                marker={"color": COLOURS[place % len(COLOURS)], "line": {"width": 0.5, "color": "#808080"}},
                customdata=[[span.iteration, span.end - span.begin] for span in lane],
                hovertemplate=f"{part}, iteration %{{customdata[0]}}: %{{customdata[1]:.1f}} s<extra></extra>",
            )
    failures = [
        at for event in events if event.get("event") == FAILED and (at := number(event.get("time"))) is not None
    ]
    if failures:
        figure.add_scatter(
            name=FAILED,
            x=[origin.at(time) for time in failures],
            y=["waiting"] * len(failures),
            mode="markers",
            marker={"symbol": "x", "size": 11, "color": COLOURS[1]},
            hovertemplate=f"{FAILED} at %{{x:.1f}} s<extra></extra>",
        )
    figure.update_layout(barmode="overlay")
    figure.update_yaxes(categoryorder="array", categoryarray=list(reversed(LANES)), showgrid=False)
    figure.update_xaxes(title="seconds since the run began", rangemode="tozero")
    summary = " ".join(_sentences(spans, log, len(failures), origin.left_out))
    return finished_figure("timeline", "Timeline: what was done when", summary, figure, height=250)


def _span(event: Json) -> Span | None:
    began, seconds = number(event.get("began")), number(event.get("seconds"))
    if event.get("event") != "spent" or event.get("part") not in LANES or began is None or seconds is None:
        return None
    return Span(str(event["part"]), int(number(event.get("iteration")) or 0), began, began + seconds)


class _Clock:
    """Seconds since the first span, without the pauses between spans."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._origin, self._pauses = min(span.begin for span in spans), list[tuple[float, float]]()
        until = self._origin
        for span in sorted(spans, key=lambda span: span.begin):
            if span.begin - until > PAUSE:
                self._pauses.append((until, span.begin))
            until = max(until, span.end)
        self.left_out = len(self._pauses)

    def at(self, time: float) -> float:
        paused = sum(min(time, end) - begin for begin, end in self._pauses if time > begin)
        return round(time - self._origin - paused, 3)


def _sentences(spans: Sequence[Span], log: Sequence[Json], failures: int, pauses: int) -> list[str]:
    def took(*parts: str) -> float:
        return sum(span.end - span.begin for span in spans if span.part in parts)

    total = max(took("training") + took("waiting"), 1e-9)
    told = [
        f"Training took {_seconds(took('training'))} and waited {_seconds(took('waiting'))} for guidance "
        f"({took('waiting') / total:.0%} of its time)."
    ]
    beside = sum(
        max(0.0, min(one.end, other.end) - max(one.begin, other.begin))
        for one in spans if one.part in _REFRESH
        for other in spans if other.part == "training"
    )  # fmt: skip
    if took(*_REFRESH):
        told.append(
            f"Guidance was made in {_seconds(took(*_REFRESH))}, {_seconds(beside)} of it while the model was trained."
        )
    stale = [number(line.get("staleness/iterations")) for line in log]
    steps = [number(line.get("staleness/steps")) for line in log]
    if oldest := max((each for each in stale if each is not None), default=0.0):
        told.append(
            f"When it was taken up it was up to {oldest:.0f} iteration{'s' if oldest > 1 else ''} old "
            f"({max(each for each in steps if each is not None):.0f} steps)."
        )
    if failures:
        told.append(f"{failures} attempt{'s' if failures > 1 else ''} at a refresh failed.")
    if pauses:
        told.append("Pauses in which the run stood still are left out.")
    return told


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
