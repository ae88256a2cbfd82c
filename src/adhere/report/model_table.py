"""Any number of models as a table: one row a model, one column a measure."""

from __future__ import annotations

from collections.abc import Sequence

from adhere.records import Measurement
from adhere.report.tables import Row, Table, cell, columns_of, find, model_label


def models_table(
    measurements: Sequence[Measurement],
    models: Sequence[str],
    names: Sequence[str],
    caption: str = "95 % intervals below the numbers",
) -> Table | None:
    """The models in the order given; None when none of the names was measured of any of them."""
    mine = [m for m in measurements if m.tags.get("model") in models]
    columns = [column for name in names for column in columns_of(mine, name)]
    if not columns:
        return None
    rows = [
        Row(model, model_label(model), tuple(cell(find(mine, column, model)) for column in columns)) for model in models
    ]
    return Table(caption, tuple(columns), tuple(rows))
