"""The fault matrix: which strikes it makes, and what it makes of their results; the strikes themselves are in tests/faults."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from types import ModuleType
from typing import Any

Script = Callable[[str], ModuleType]


def _row(name: str, value: float, **tags: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "n": 1, "unit": "records", "fault": "kill -9", "place": "saving", **tags}


def test_it_kills_at_twenty_moments_over_five_places_by_default(script: Script) -> None:
    keys = [key.split() for key, *_ in script("faults").cases(4, False)]
    killed = [key[1] for key in keys if key[0] == "kill"]
    assert len(killed) == 20 and {place: killed.count(place) for place in killed} == dict.fromkeys(killed, 4)
    assert {key[0] for key in keys} == {"kill", "interrupt", "full", "second", "service", "worker"}
    assert len({" ".join(key) for key in keys}) == len(keys)


def test_the_table_sums_what_was_lost_and_counts_what_was_equal(script: Script) -> None:
    rows = [_row("lost", 0), _row("bit_equal", 1), _row("lost", 3), _row("bit_equal", 0)]
    rows += [_row(name, 1.5, fault="API fails 30% of calls", made=15, needed=10) for name in
             ("lost", "invented", "bit_equal", "calls_made_over_needed")]  # fmt: skip
    lines = script("fault_table").fault_table(rows).splitlines()
    assert lines[2] == (
        "| kill -9 | saving | the process was gone at once; `--resume` went on | 2 | 3 records | 1 of 2 |"
    )
    assert "15 calls for 10 texts (1.50 ×)" in lines[3]


def test_the_failing_server_fails_as_often_as_it_is_told_and_never_lies(script: Script) -> None:
    with script("failing_server").failing_server(0.3, seed=1) as server:
        answers = []
        for number in range(60):
            body = json.dumps({"text": "buzz" if number % 2 else "calm"}).encode()
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    server.url, body, timeout=5
                ) as reply:
                    answers.append((number % 2, json.loads(reply.read())["score"]))
            except (OSError, ValueError):
                continue
            except Exception as error:  # half an answer
                assert type(error).__name__ == "IncompleteRead"
    assert server.calls == 60
    assert 8 <= sum(server.failed.values()) <= 28
    good = [(violates, score) for violates, score in answers if score == score and score <= 1]
    assert len(good) == 60 - sum(server.failed.values())
    assert all(score == 1.0 - violates for violates, score in good)
