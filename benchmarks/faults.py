"""The fault matrix: what is broken on purpose, where it strikes, what was lost. Real signals, full disks, a real server.

    python benchmarks/faults.py
    python benchmarks/faults.py --table docs/reliability.md      # from the results file; runs nothing

A run of seconds (`tiny_run.py`, on the CPU) is struck and gone on with (`--resume`); its weights are then compared, bit for
bit, with those of a run that nobody disturbed. Everything is as shipped, the early stopping of the fit too. What has been
done is kept in `--folder`; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from failing_server import failing_server
from fault_table import fault_table
from result_files import RESULTS, Rows, made_by, put_between, read_results, results_path, write_results
from tiny_run import RECIPE, make_base, write_recipe

WORKER = Path(__file__).resolve().parent.parent / "tests" / "faults" / "run_and_kill.py"
PLACES = ("sampling", "labelling", "fitting", "training", "saving")
KINDS = ("kill", "interrupt", "full", "second", "service", "worker")
NOTHING_LEFT = 64 * 2**20  # bytes of the file system that is filled


class Bench:
    """A folder with a model, a corpus and runs, and the process that trains them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "base").exists():
            make_base(folder / "making")
            (folder / "making").rename(folder / "base")
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "EARLY_STOPPING": "real",
            "ADHERE_CACHE": str(folder / "cache"),
        }  # fmt: skip
        self._worker = subprocess.Popen(
            [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def close(self) -> None:
        """End the process."""
        assert self._worker.stdin is not None
        self._worker.stdin.close()
        self._worker.wait(timeout=60)

    def recipe(self, run: Path, **sections: Any) -> Path:
        """The recipe of a run."""
        return write_recipe(self.folder / "base", run, self.folder / f"{run.name}.json", **sections)

    def order(self, run: Path, recipe: Path, **order: Any) -> int:
        """Train, or what else the order says, in a child of the worker; its exit code, negative for a signal."""
        assert self._worker.stdin is not None and self._worker.stdout is not None
        whole = {"recipe": str(recipe), "folder": str(run), "log": str(self.log(run)), "resume": False, **order}
        self._worker.stdin.write(json.dumps(whole) + "\n")
        self._worker.stdin.flush()
        return int(self._worker.stdout.readline())

    def log(self, run: Path) -> Path:
        """Where a run's output goes."""
        return self.folder / f"{run.name}.log"

    def undisturbed(self) -> tuple[str, dict[str, int]]:
        """The digest of the weights of a run that nobody disturbs, and how many things it does in each place."""
        run, counts = self.folder / "undisturbed", self.folder / "counts.json"
        recipe = self.recipe(run)
        if not (run / "training.json").exists():
            _succeeds(self.order(run, recipe, resume=run.exists()), self.log(run))
        if not counts.exists():
            counted = self.folder / "counted"
            shutil.rmtree(counted, ignore_errors=True)
            strike = {"count": str(counts), "place": "", "tick": -1}
            _succeeds(self.order(counted, self.recipe(counted), strike=strike), self.log(counted))
            assert weights(counted) == weights(run), "two undisturbed runs differ: nothing here can be compared"
        return weights(run), json.loads(counts.read_text())


def weights(run: Path) -> str:
    """Digest of a run's final weights."""
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def kept_lines(run: Path) -> dict[str, list[bytes]]:
    """The whole batches of samples and labels that are on disk."""
    from adhere.data.batch_log import read_state

    found = {}
    for path in sorted([*run.glob("samples/iteration-*.jsonl"), *run.glob("labels/iteration-*.jsonl")]):
        content = path.read_bytes()[: read_state(path).size]
        found[path.relative_to(run).as_posix()] = content.splitlines()
    return found


def compared(run: Path, before: dict[str, list[bytes]], expected: str) -> tuple[int, int]:
    """How many of the lines of `before` are not in the run's files, and 1 where its weights are as expected."""
    after = kept_lines(run)
    lost = sum(line not in after.get(name, []) for name, lines in before.items() for line in lines)
    return lost, int(weights(run) == expected)


def rows_of(fault: str, place: str, lost: float, bit_equal: int | None, **tags: Any) -> Rows:
    """The two rows of one strike."""
    rows: Rows = [
        {"name": "lost", "value": lost, "n": 1, "unit": tags.pop("unit", "records"), "fault": fault, "place": place}
    ]
    if bit_equal is not None:
        rows.append({"name": "bit_equal", "value": bit_equal, "n": 1, "unit": "", "fault": fault, "place": place})
    return [{**row, **tags} for row in rows]


# ---- the faults ---------------------------------------------------------------------------------------------------------


def struck(bench: Bench, fault: str, place: str, point: int, seed: int) -> Rows:
    """A run is struck at a random moment, and gone on with."""
    expected, counts = bench.undisturbed()
    draw = random.Random(f"{seed} {fault} {place} {point}")
    tick, how = draw.randint(1, counts[place]), draw.choice(["kill", "half"]) if fault == "kill -9" else "interrupt"
    run = bench.folder / f"{fault} {place} {point}".replace(" ", "-")
    shutil.rmtree(run, ignore_errors=True)
    recipe = bench.recipe(run)
    words = {} if fault == "kill -9" else {"cli": ["train", str(recipe)]}
    code = bench.order(run, recipe, strike={"place": place, "tick": tick, "how": how}, **words)
    if code != (-signal.SIGKILL if fault == "kill -9" else 130):
        raise SystemExit(f"{run.name}: exit code {code} at thing {tick} of {counts[place]}; see {bench.log(run)}")
    before = kept_lines(run)
    _succeeds(bench.order(run, recipe, resume=True), bench.log(run))
    lost, equal = compared(run, before, expected)
    at = f"thing {tick} of {counts[place]}" + (", half written where it is a write" if how == "half" else "")
    return rows_of(fault, place, lost, equal, point=point, at=at, exit_code=code)


def disk_full(bench: Bench, place: str, seed: int) -> Rows:
    """No file can grow any more from a random moment on; then there is room again, and the run goes on."""
    expected, counts = bench.undisturbed()
    tick = random.Random(f"{seed} full {place}").randint(1, counts.get(place, 1)) if place != "report" else 0
    with small_file_system(bench.folder / "full") as small:
        run = small / f"full-{place}"
        recipe, filler = bench.recipe(run), small / "filler"
        real = small.is_mount()
        strike = {"place": place, "tick": tick, "how": "full", "filler": str(filler) if real else None}
        how = {"how": "full tmpfs" if real else "file size limit"}
        if place == "report":
            _succeeds(bench.order(run, recipe), bench.log(run))
            words = ["report", str(run)]
            _succeeds(bench.order(run, recipe, cli=words), bench.log(run))
            old = (run / "report.html").read_bytes()
            code = bench.order(run, recipe, cli=words, strike=strike)
            _refused(code, bench.log(run))
            lost = int((run / "report.html").read_bytes() != old)
            filler.unlink(missing_ok=True)
            _succeeds(bench.order(run, recipe, cli=words), bench.log(run))
            return rows_of("disk full", place, lost, int(weights(run) == expected), exit_code=code, **how)
        code = bench.order(run, recipe, cli=["train", str(recipe)], strike=strike)
        _refused(code, bench.log(run))
        before = kept_lines(run)
        filler.unlink(missing_ok=True)
        _succeeds(bench.order(run, recipe, resume=True), bench.log(run))
        lost, equal = compared(run, before, expected)
    return rows_of("disk full", place, lost, equal, exit_code=code, at=f"from thing {tick} on", **how)


def two_processes(bench: Bench, place: str, seed: int) -> Rows:
    """Another process is told to train in the folder of a run that is under way."""
    expected, counts = bench.undisturbed()
    run = bench.folder / f"second-{place}"
    shutil.rmtree(run, ignore_errors=True)
    recipe, told = bench.recipe(run), bench.folder / "second.txt"
    tick = random.Random(f"{seed} second {place}").randint(1, counts[place])
    strike = {"place": place, "tick": tick, "how": "second", "told": str(told)}
    _succeeds(bench.order(run, recipe, cli=["train", str(recipe)], strike=strike), bench.log(run))
    code, said = int(told.read_text()), Path(f"{bench.log(run)}.second").read_text()
    if code != 2 or "is in use: process" not in said:
        raise SystemExit(f"{run.name}: the second process ended with {code} and said: {said}")
    return rows_of("two processes", place, 0, int(weights(run) == expected), exit_code=code)


def worker_dies(bench: Bench, seed: int) -> Rows:
    """The process that makes the next guidance beside training is killed while training goes on.

    Another attempt comes later, and training may go on with the guidance it has meanwhile: other weights are right here.
    """
    _, counts = bench.undisturbed()
    run = bench.folder / "worker-dies"
    shutil.rmtree(run, ignore_errors=True)
    guidance = {**RECIPE["guidance"], "iterations": 3, "schedule": "parallel", "executor": "worker"}
    # Among the first steps: the worker is at work on the next guidance then.
    tick = random.Random(f"{seed} worker").randint(1, counts["training"] // 3)
    strike = {"place": "training", "tick": tick, "how": "worker"}
    _succeeds(bench.order(run, bench.recipe(run, guidance=guidance), strike=strike), bench.log(run))
    attempts = (run / "events.jsonl").read_text().count('"refresh failed"')
    if not attempts:
        raise SystemExit("the worker was not at work when it was to be killed; give another --seed")
    lost, _, _ = _verdicts(run)
    return rows_of("worker dies", "training", lost, None, unit="verdicts", failed_attempts=attempts)


def failing_service(bench: Bench, share: float, seed: int) -> Rows:
    """The oracle is a service that fails so many of its calls, for a whole run."""
    ended = {}
    rows: Rows = []
    for failing in (0.0, share):
        with failing_server(failing, seed) as server:
            run = bench.folder / f"service-{round(failing * 100)}"
            shutil.rmtree(run, ignore_errors=True)
            shutil.rmtree(bench.folder / "cache", ignore_errors=True)
            oracle = {
                "kind": "endpoint", "url": server.url, "request": {"text": "{output}"}, "score_path": "score",
                "direction": "satisfied", "limits": {"concurrency": 8},
            }  # fmt: skip
            constraints = [{**RECIPE["constraints"][0], "oracle": oracle}]
            _succeeds(bench.order(run, bench.recipe(run, constraints=constraints)), bench.log(run))
            lost, invented, verdicts = _verdicts(run)
            ended[failing] = weights(run)
            if not failing:
                continue
            tags = {"fault": f"API fails {share:.0%} of calls", "place": "a whole run", "n": verdicts}
            equal = int(ended[failing] == ended[0.0])
            rows = [
                {"name": "lost", "value": lost, "unit": "verdicts", **tags},
                {"name": "invented", "value": invented, "unit": "verdicts", **tags},
                {"name": "bit_equal", "value": equal, "unit": "", **tags},
                {"name": "calls_made_over_needed", "value": server.calls / len(server.judged), "unit": "×", **tags,
                 "made": server.calls, "needed": len(server.judged), "failed": server.failed},
            ]  # fmt: skip
    return rows


def _verdicts(run: Path) -> tuple[int, int, int]:
    """Of all outputs and corpus rows: without a verdict, with another than the truth, and how many there are."""
    from adhere.data.sample_store import SampleStore

    said = []
    for path in sorted(run.rglob("samples/iteration-*.jsonl")):
        store, number = SampleStore(path.parent.parent), int(path.stem.rpartition("-")[2])
        said += [(item.sample.output, item.verdicts["no_z"].score) for item in store.labelled(number)]
    lost = sum(score is None for _, score in said)
    invented = sum(score is not None and score != float("z" not in text) for text, score in said)
    return lost, invented, len(said)


# ---- the machinery ------------------------------------------------------------------------------------------------------


@contextmanager
def small_file_system(folder: Path) -> Iterator[Path]:
    """A small file system of its own where this process may mount one, else a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={NOTHING_LEFT}", "adhere-faults", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def _succeeds(code: int, log: Path) -> None:
    if code != 0:
        raise SystemExit(f"exit code {code}; see {log}")


def _refused(code: int, log: Path) -> None:
    said = log.read_text(encoding="utf-8")
    if code != 2 or "Traceback" in said or not ("no space left" in said or "File too large" in said):
        raise SystemExit(f"a full disk ended with exit code {code}, and not with a clear message; see {log}")


def cases(points: int, quick: bool) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Every strike, one of each kind first: its key, what does it, with which arguments."""
    for place in PLACES:
        yield f"kill {place} 0", struck, ("kill -9", place, 0)
    for place in ("saving",) if quick else ("sampling", "labelling", "fitting", "saving", "report"):
        yield f"full {place}", disk_full, (place,)
    for place in ("training",) if quick else ("sampling", "training"):
        yield f"second {place}", two_processes, (place,)
    if not quick:
        yield "service", failing_service, (0.3,)
        yield "worker", worker_dies, ()
    for place in ("training",) if quick else PLACES:
        yield f"interrupt {place}", struck, ("Ctrl-C", place, 0)
    for point in range(1, points):
        for place in PLACES:
            yield f"kill {place} {point}", struck, ("kill -9", place, point)


def main(arguments: Sequence[str] | None = None) -> None:
    """Strike, go on, compare, write the results; or put their table into a document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/faults"), help="for the runs; gone on with when it exists"
    )
    parser.add_argument("--points", type=int, default=4, help="random moments of kill -9 in each of five places")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--quick", action="store_true", help="one moment a place, and one each of the rest")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--table", type=Path, help="put the matrix of the results into a document, and run nothing")
    given = parser.parse_args(arguments)
    if given.table:
        path = results_path(given.out, "faults")
        told = read_results(path)
        put_between(given.table, "faults", f"{fault_table(told['rows'])}\n\n{made_by(told, path)}\n")
        return
    bench = Bench(given.folder.resolve())
    done_file = bench.folder / f"rows-{given.seed}.json"
    done: dict[str, Rows] = json.loads(done_file.read_text()) if done_file.exists() else {}
    try:
        for key, strike, told in cases(1 if given.quick else given.points, given.quick):
            if key not in done:
                done[key] = strike(bench, *told, given.seed)
                done_file.write_text(json.dumps(done))
                print(key, *(f"{row['name']} {row['value']:g}" for row in done[key]), flush=True)
                _tell(done, given)
    finally:
        bench.close()
    print(f"Results: {_tell(done, given)}")


def _tell(done: dict[str, Rows], given: argparse.Namespace) -> Path:
    """Write what has been done so far."""
    path = results_path(given.out, "faults")
    order = sorted(done, key=lambda key: (KINDS.index(key.split()[0]), [*PLACES, key.split()[-1]].index(_place(key))))
    write_results(path, "faults", [row for key in order for row in done[key]], seeds=(given.seed,))
    return path


def _place(key: str) -> str:
    return next((word for word in key.split() if word in PLACES), key.split()[-1])


if __name__ == "__main__":
    main()
