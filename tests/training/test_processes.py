from __future__ import annotations

from typing import Any

import pytest
import torch

from adhere.data.collation import IGNORED
from adhere.training.processes import place


def _batch(rows: int) -> dict[str, Any]:
    return {
        "row": torch.arange(rows),
        "labels": torch.ones(rows, 3, dtype=torch.long),
        "output_mask": torch.ones(rows, 3, dtype=torch.long),
    }


def test_rows_stand_in_the_global_batch_one_process_after_the_other() -> None:
    assert [place(_batch(3), 0, index, 2)["place"].tolist() for index in (0, 1)] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("rows", "places"),
    [
        (12, [[0, 1, 2], [3, 4, 5]]),  # the epoch ends with a full batch
        (10, [[0, 1, 2], [3, -1, -1]]),
        (8, [[0, 1, -1], [-1, -1, -1]]),  # the second process has nothing of its own
    ],
)
def test_rows_that_fill_the_last_batch_of_an_epoch_up_teach_nothing(rows: int, places: list[list[int]]) -> None:
    for index, expected in enumerate(places):
        placed = place(_batch(3), rows, index, 2)
        assert placed["place"].tolist() == expected
        own = torch.tensor(expected) >= 0
        assert (placed["labels"][own] == 1).all() and (placed["labels"][~own] == IGNORED).all()
        assert (placed["output_mask"].bool() == own[:, None]).all()


def test_the_last_batch_of_one_process_is_its_own() -> None:
    placed = place(_batch(2), 8, 0, 1)
    assert placed["place"].tolist() == [0, 1] and (placed["labels"] == 1).all()
