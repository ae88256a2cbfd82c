"""Fifty thousand outputs labelled through a service: how near to what the limits allow, and in how much memory.

    python benchmarks/load.py            # about three minutes; writes benchmarks/results/load.<machine>.json
    python benchmarks/load.py --quick    # 800 outputs a case
    python benchmarks/load.py --table docs/reliability.md    # from the results file; runs nothing

The service is `load_server.py`, in a process of its own; it takes 20 ms for an answer. With `concurrency` requests under way,
concurrency ÷ 20 ms requests a second are possible. Each case is `adhere label` (`label_file`) with a fresh cache of verdicts,
in a process of its own, from the first byte read to the last one written:

- one text a request to a generic JSON endpoint, 8 under way: 400 outputs a second are possible, 2.5 ms each, so that a
  millisecond of work too much for each output would be seen;
- the same file once more, all of it from the cache;
- four texts a request to a moderation service, 4 under way, a fifth of the outputs.

Throughput is outputs by the time of the whole call. Its share of what is possible is given for 20 ms, for what the service
took by its own clock, and for what a bare loop round aiohttp gets from
the service with as many requests under way, which judges nothing and keeps nothing. Memory is the process's resident set,
sampled ten times a second: the mean of the last quarter of the time over that of the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from result_files import (
    RESULTS,
    Rows,
    made_by,
    markdown_table,
    median_row,
    put_between,
    read_results,
    results_path,
    write_results,
)

if TYPE_CHECKING:
    from adhere.oracles.config import OracleConfig

BENCHMARK = "load"
OUTPUTS, QUICK = 50_000, 800
SECONDS = 0.020
_SAMPLE = 0.1
_BARE = 8_000  # requests of the bare client, at most


@dataclass(frozen=True)
class Case:
    """What is asked, and how: `texts` to a request, `concurrency` requests under way, `share` of the outputs."""

    name: str
    kind: str
    texts: int
    concurrency: int
    share: float = 1.0


CASES = (
    Case("endpoint, one text a request", "endpoint", 1, 8),
    Case("moderation, four texts a request", "moderation", 4, 4, 0.2),
)


def oracle_section(case: Case, url: str) -> OracleConfig:
    """The oracle as a recipe would have it."""
    from adhere.oracles.remote_config import EndpointConfig, LimitsConfig, ModerationConfig

    limits = LimitsConfig(concurrency=case.concurrency)
    if case.kind == "moderation":
        return ModerationConfig(url=f"{url}/moderations", key_variable=None, batch_size=case.texts, limits=limits)
    request: dict[str, Any] = {"text": "{output}"}
    return EndpointConfig(url=f"{url}/score", request=request, score_path="risk", direction="violation", limits=limits)


def measured(case: Case, url: str, samples: Path, out: Path) -> dict[str, float]:
    """Label a file once, in this process: what it took."""
    from adhere.oracles.config import build_oracle
    from adhere.oracles.spending import spending_of
    from adhere.recipe import label

    built = []

    def kept(section: OracleConfig) -> Any:
        built.append(build_oracle(section))
        return built[-1]

    warm = samples.with_suffix(".warm.jsonl")
    write_samples(warm, 64, start=10**9)
    label.label_file(warm, oracle_section(case, url), out)  # what is imported when it is first needed
    label.build_oracle = kept  # its spending is read afterwards
    with _resident_set() as sizes:
        wall, cpu = time.perf_counter(), time.process_time()
        counts = label.label_file(samples, oracle_section(case, url), out)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert counts.judged == counts.rows and counts.violations == counts.rows // 10
    spent = spending_of(*built)
    quarter = max(1, len(sizes) // 4)
    first, last = (sum(part) / quarter for part in (sizes[:quarter], sizes[-quarter:]))
    return {
        "outputs": counts.rows, "seconds": wall, "cpu": cpu, "calls": spent.calls_made, "saved": spent.calls_saved,
        "first": first, "last": last, "peak": max(sizes),
    }  # fmt: skip


@contextmanager
def _resident_set() -> Iterator[list[int]]:
    """Bytes of memory, sampled until the block ends."""
    sizes: list[int] = [_resident()]
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_SAMPLE):
            sizes.append(_resident())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def write_samples(path: Path, outputs: int, start: int = 0) -> None:
    """Outputs of some 150 characters, all different; every tenth violates."""
    with path.open("w", encoding="utf-8") as stream:
        for number in range(start, start + outputs):
            words = " ".join(f"word{(number * 31 + place) % 997}" for place in range(20))
            stream.write(json.dumps({"output": f"{number} {words}{' z' if number % 10 == 0 else ''}"}) + "\n")


def rows_of(case: Case, found: dict[str, float], again: bool) -> Rows:
    """The rows of the results file for one measurement."""
    tags = {"case": case.name, "concurrency": case.concurrency, "texts_a_request": case.texts,
            "service_seconds": SECONDS, "outputs": found["outputs"], "from_cache": again}  # fmt: skip
    throughput = found["outputs"] / found["seconds"]
    allowed = case.concurrency * case.texts / SECONDS
    one = [
        ("throughput", throughput, "outputs/s"),
        ("share_of_allowed", throughput / allowed, "1"),
        ("share_of_allowed_as_served", throughput / allowed * found["served"] / SECONDS, "1"),
        ("share_of_bare_client", throughput / found.get("bare", math.nan), "1"),
        ("cpu_milliseconds_an_output", 1000 * found["cpu"] / found["outputs"], "ms"),
        ("memory_last_quarter_over_first", found["last"] / found["first"], "×"),
        ("memory_peak", found["peak"] / 2**20, "MiB"),
        ("calls_made", found["calls"], "requests"),
        ("calls_saved", found["saved"], "verdicts"),
    ]
    # Without a service there is no share of what it allows; and it is over before memory could grow.
    told = [
        each
        for each in one
        if not (again and (each[0].startswith("share") or each[0] == "memory_last_quarter_over_first"))
    ]
    return [median_row(name, [value], unit, **tags) for name, value, unit in told]


def run(folder: Path, outputs: int) -> Rows:
    """Every case, in a process of its own."""
    server = [sys.executable, str(Path(__file__).with_name("load_server.py")), "--milliseconds", str(1000 * SECONDS)]
    rows: Rows = []
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdin is not None and serving.stdout is not None
        url = serving.stdout.readline().strip()
        try:
            for number, case in enumerate(CASES):
                samples = folder / f"{number}.jsonl"
                write_samples(samples, int(outputs * case.share))
                bare = asyncio.run(bare_client(case, url, min(_BARE, int(outputs * case.share))))
                for again in (False, True) if number == 0 else (False,):
                    _served(url)
                    found = _in_process(number, url, samples)
                    rows += rows_of(case, {**found, "served": _served(url), "bare": bare}, again)
                    print(_line(rows, case, again), flush=True)
        finally:
            serving.stdin.close()
    return rows


async def bare_client(case: Case, url: str, outputs: int) -> float:
    """Outputs a second of as many workers that send the same requests and throw the answers away."""
    import aiohttp

    path = f"{url}/score" if case.kind == "endpoint" else f"{url}/moderations"
    text = "word " * 30
    body = {"text": text} if case.kind == "endpoint" else {"input": [text] * case.texts}
    requests, content = -(-outputs // case.texts), json.dumps(body).encode()
    waiting = iter(range(requests))

    async def worker(client: aiohttp.ClientSession) -> None:
        for _ in waiting:
            async with client.post(path, data=content, headers={"Content-Type": "application/json"}) as answer:
                await answer.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        start = time.perf_counter()
        await asyncio.gather(*(worker(client) for _ in range(case.concurrency)))
        return requests * case.texts / (time.perf_counter() - start)


def _served(url: str) -> float:
    """Seconds that the service took for an answer since this was last asked."""
    with urlopen(f"{url}/taken", data=b"{}") as answered:
        told = json.load(answered)
    return float(told["seconds"] / max(1, told["answers"]))


def _in_process(case: int, url: str, samples: Path) -> dict[str, float]:
    """In a process whose memory holds nothing else; its cache lies beside the samples."""
    environment = {**os.environ, "ADHERE_CACHE": str(samples.with_suffix(".cache")), "NO_PROXY": "127.0.0.1"}
    words = [sys.executable, __file__, "--case", str(case), "--url", url, "--samples", str(samples)]
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def _line(rows: Rows, case: Case, again: bool) -> str:
    found = {row["name"]: row["value"] for row in rows if (row["case"], row["from_cache"]) == (case.name, again)}
    begun = (
        f"{case.name}: {found['throughput']:,.0f} outputs/s, {found['cpu_milliseconds_an_output']:.2f} ms of CPU each, "
    )
    if again:
        return f"{begun}from the cache; {found['calls_made']:,.0f} calls"
    growth = f"memory × {found['memory_last_quarter_over_first']:.3f}; {found['calls_made']:,.0f} calls"
    shares = (
        f"{found['share_of_allowed']:.1%} of what is possible, {found['share_of_bare_client']:.1%} of a bare client's"
    )
    return f"{begun}{shares}; {growth}"


def table(rows: Rows) -> str:
    """A line for each case."""
    found = {(row["case"], row["from_cache"], row["name"]): row["value"] for row in rows}
    lines = []
    for case, again in dict.fromkeys((row["case"], row["from_cache"]) for row in rows):
        name = f"{case}, all from the cache" if again else case
        shown = [
            f"{found[case, again, 'throughput']:,.0f}",
            _or_dash(found.get((case, again, "share_of_allowed")), "{:.1%}"),
            _or_dash(found.get((case, again, "share_of_allowed_as_served")), "{:.1%}"),
            _or_dash(found.get((case, again, "share_of_bare_client")), "{:.1%}"),
        ]
        shown += [f"{found[case, again, 'cpu_milliseconds_an_output']:.2f}", f"{found[case, again, 'memory_peak']:.0f}"]
        shown += [_or_dash(found.get((case, again, "memory_last_quarter_over_first")), "{:.3f}")]
        lines.append([name, *shown, f"{found[case, again, 'calls_made']:,.0f}"])
    head = [
        "case",
        "outputs/s",
        "of what is possible",
        "as it was served",
        "of a bare client's",
        "CPU ms each",
        "peak MiB",
        "memory, last ÷ first quarter",
        "calls",
    ]
    return markdown_table(head, lines)


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def main(words: list[str] | None = None) -> None:
    """Run the benchmark, or one case of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} outputs instead of {OUTPUTS:,}")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help="put the table of the results into a document, and run nothing")
    asked = parser.parse_args(words)
    path = results_path(asked.results, BENCHMARK)
    if asked.table is not None:
        told = read_results(path)
        put_between(asked.table, "load", f"{table(told['rows'])}\n\n{made_by(told, path)}\n")
        return
    if asked.case is not None:
        out = asked.samples.with_suffix(".labels.jsonl")
        print(json.dumps(measured(CASES[asked.case], asked.url, asked.samples, out)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = run(Path(folder), QUICK if asked.quick else OUTPUTS)
    write_results(path, BENCHMARK, rows)
    print(path)


if __name__ == "__main__":
    main()
