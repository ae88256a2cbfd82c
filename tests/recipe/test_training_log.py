"""What a person is told while guidance is made."""

from __future__ import annotations

from pathlib import Path

from adhere.recipe.training_log import EventsTold


def test_sampling_is_told_with_its_speed(tmp_path: Path) -> None:
    told: list[tuple[str, int, int, str]] = []
    log = EventsTold(tmp_path, lambda stage, done, total, note="": told.append((stage, done, total, note)))
    log.event("sampled", 0, {"batch": 2, "batches": 5, "tokens_per_second": 1234.5})
    assert told == [("sampling for guidance", 2, 5, "1,234 tokens/s")]
