"""What could run somebody else's code stands in the source nowhere, or only where it is meant to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parent.parent / "src" / "adhere"

UNPICKLES = {"load", "loads", "Unpickler", "read_pickle"}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
BY_HAND = {
    "oracles/keras_files.py": "an unpickler that knows four names and refuses others",
    "guidance/portable.py": "between a run and the worker that it started itself",
    "guidance/worker.py": "the same, on the worker's side",
}
"""Files that may read a pickle, and why."""


def _calls(source: str) -> Iterator[tuple[ast.Call, str]]:
    """Calls, with the dotted name of what is called."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def _unsafe(name: str, source: str) -> list[str]:
    """What is unsafe in a file, by line."""
    found = []
    for call, called in _calls(source):
        settings = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        module, _, function = called.rpartition(".")
        where = f"{name}:{call.lineno}: {called}"
        if called == "torch.load" and settings.get("weights_only") != "True":
            found.append(f"{where} without weights_only=True")
        if module in PICKLES and function in UNPICKLES and name not in BY_HAND:
            found.append(f"{where} reads a pickle")
        if function in ("read_pickle",) or settings.get("allow_pickle") == "True":
            found.append(f"{where} reads a pickle")
        if settings.get("trust_remote_code", "False") not in ("False", "config.trust_remote_code"):
            found.append(f"{where} trusts remote code that nobody named")
        if called in ("eval", "exec", "os.system", "os.popen") or settings.get("shell") == "True":
            found.append(f"{where} runs text")
        if function in ("extractall", "unpack_archive"):
            found.append(f"{where} lets an archive say where its files go")
        if called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"):
            found.append(f"{where} may make objects of tags")
        if settings.get("verify") == "False" or settings.get("ssl") == "False":
            found.append(f"{where} trusts any certificate")
    return found


def test_nothing_in_the_source_runs_what_it_reads() -> None:
    found = [
        line
        for path in sorted(SRC.rglob("*.py"))
        for line in _unsafe(path.relative_to(SRC).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_files_that_may_read_a_pickle_are_still_there() -> None:
    assert [name for name in BY_HAND if not (SRC / name).exists()] == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)", "torch.load(path, weights_only=False)", "pickle.load(stream)", "joblib.load(path)",
        "numpy.load(path, allow_pickle=True)", "AutoModel.from_pretrained(name, trust_remote_code=True)", "eval(text)",
        "archive.extractall(folder)", "subprocess.run(text, shell=True)", "yaml.load(text, Loader=yaml.Loader)",
        "httpx.get(url, verify=False)",
    ],
)  # fmt: skip
def test_it_would_be_found(source: str) -> None:
    assert len(_unsafe("x.py", source)) == 1
