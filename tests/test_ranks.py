from __future__ import annotations

import pytest

from adhere import ranks


def test_without_a_launcher_everything_is_a_plain_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.join(), ranks.count(), ranks.index(), ranks.is_first()) == (1, 1, 0, True)
    assert ranks.on_first(lambda: 3) == 3 and ranks.on_each(lambda: 3) == [3]
    assert list(ranks.in_rounds("ab", str.upper)) == [("a", "A"), ("b", "B")]
    with pytest.raises(ZeroDivisionError):
        ranks.on_first(lambda: 1 // 0)


def test_a_process_that_one_of_them_has_started_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It inherits the environment, but has not joined."""
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert (ranks.launched(), ranks.index(), ranks.count()) == (2, 1, 1)
    assert ranks.on_each(lambda: 3) == [3]
    assert list(ranks.in_rounds([1, 2, 3], str)) == [(1, "1"), (2, "2"), (3, "3")]


def test_a_size_of_the_world_without_a_launcher_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters set it for jobs that are one process."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert ranks.launched() == 1
