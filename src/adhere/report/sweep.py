"""A sweep as a page: the trade-off curve over a setting (Fig. 3 of the paper), other methods as points beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from adhere.evaluation.seeds import over_seeds
from adhere.records import Measurement
from adhere.report.model_table import models_table
from adhere.report.page import Page, Section, render_page
from adhere.report.scatter import Line
from adhere.report.tables import MAIN, Cell, Column, Row, Table, columns_of, other_names
from adhere.report.trade_off import UTILITIES, Placed, TradeOff, trade_offs


def sweep_page(
    measurements: Sequence[Measurement], key: str, values: Sequence[str], name: str, results: Mapping[str, object]
) -> str:
    """The page as text.

    Args:
        measurements: of all cells, with the tags `model` (a value or a method, as tables call it), `seed`, and `at` (the
            value) where they are part of the curve.
        key: the setting that is swept; `values` in the order of the curve.
        name: of the sweep.
        results: what its results file says of how it was made.
    """
    means = mean_over_seeds(measurements)
    models = list(dict.fromkeys(m.tags["model"] for m in means))
    curve = {m.tags["at"]: m.tags["model"] for m in means if "at" in m.tags}
    on_it = [curve[value] for value in values if value in curve]
    trades = curve_figures(means, models, on_it, key)
    return render_page(
        Page(
            brand="sweep",
            name=name,
            headline=_headline(results, key, values),
            date=str(results.get("date", "")),
            command=str(results.get("command", "")),
            sections=list(_sections(measurements, means, models, trades)),
        )
    )


def mean_over_seeds(measurements: Sequence[Measurement]) -> list[Measurement]:
    """One measurement for all seeds of a model, in the order in which they come."""
    groups: dict[tuple[object, ...], list[Measurement]] = {}
    for measured in measurements:
        columns = columns_of(
            [replace(measured, tags={k: v for k, v in measured.tags.items() if k != "seed"})], measured.name
        )
        if columns:
            groups.setdefault((measured.name, measured.tags["model"], columns[0].tags), []).append(measured)
    return [over_seeds(group) for group in groups.values()]


def curve_figures(
    means: Sequence[Measurement], models: Sequence[str], on_it: Sequence[str], key: str
) -> list[TradeOff]:
    """Every violation rate against each perplexity: a curve through the values, the other methods as points."""

    def curve(placed: Placed, _: str) -> list[Line]:
        found = [model for model in on_it if model in placed]
        places = [(placed[model].x.value, placed[model].y.value) for model in found]
        return [Line("", places, [model.partition(" = ")[2] for model in found], named=False)]

    measured = {m.name for m in means}
    return [
        trade
        for utility in UTILITIES
        if utility in measured
        for trade in trade_offs(means, models, utility, curve, dict.fromkeys(on_it, f"over {key}"))
    ]


def _sections(
    measurements: Sequence[Measurement],
    means: Sequence[Measurement],
    models: Sequence[str],
    trades: Sequence[TradeOff],
) -> Iterator[Section]:
    seeds = list(dict.fromkeys(m.tags["seed"] for m in measurements if "seed" in m.tags))
    said = (
        f"Each point is the mean of {len(seeds)} seeds ({', '.join(seeds)}); its interval reaches from the lowest to "
        "the highest end of the seeds' own 95 % intervals."
        if len(seeds) > 1
        else "Intervals are of prompts and texts alone: there is one seed."
    )
    if trades:
        yield Section("curve", "The trade-off", sentences=[said], figures=[trade.figure for trade in trades])
    tables = [models_table(means, models, names) for names in (MAIN, other_names(means))]
    folded = [("More measurements", tables[1])] if tables[1] is not None else []
    if len(seeds) > 1:
        apart = [
            replace(m, tags={**m.tags, "model": f"{m.tags['model']} · seed {m.tags['seed']}"}) for m in measurements
        ]
        apart = [replace(m, tags={k: v for k, v in m.tags.items() if k != "seed"}) for m in apart]
        each = models_table(apart, sorted({m.tags["model"] for m in apart}), MAIN)
        folded += [("Every seed", each)] if each is not None else []
    yield Section("result", "All settings", tables=[t for t in tables[:1] if t is not None], folded=folded)
    yield Section("machines", "Where it was made", tables=[_machines(measurements)])


def _headline(results: Mapping[str, object], key: str, values: Sequence[str]) -> list[str]:
    cells = results.get("cells")
    told = [f"Violations and perplexity over {key} = {', '.join(values)}"]
    if isinstance(cells, dict) and cells.get("finished") != cells.get("all"):
        told.append(f"Not all of it yet: {cells.get('finished')} of {cells.get('all')} cells are finished.")
    return told


def _machines(measurements: Sequence[Measurement]) -> Table:
    found = dict.fromkeys((m.tags["model"], m.tags.get("seed", ""), m.tags.get("machine", "")) for m in measurements)
    columns = tuple(Column(name, (), name, "") for name in ("seed", "machine"))
    rows = [Row(model, model, (Cell(seed), Cell(machine))) for model, seed, machine in found]
    return Table("Every cell", columns, tuple(rows))
