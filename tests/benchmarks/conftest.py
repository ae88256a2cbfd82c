"""The scripts under benchmarks/ as modules, and a recipe file that they get through in a second."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NOUNS = ("cat", "dog", "cow", "fox", "hen", "owl", "pig", "rat")

Script = Callable[[str], ModuleType]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """Imports a benchmark by its name; those it imports are its neighbours."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def recipe_file(tiny_policy_folder: Path, tmp_path: Path) -> Path:
    """A recipe for the tiny model: every other row of its corpus has a `z`, which is forbidden."""
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"prompt": f"the {noun}", "completion": f" is {end}."} for noun in NOUNS for end in ("zzz", "good")]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "model": {"path": str(tiny_policy_folder)},
        "corpus": {"path": str(corpus), "max_length": 32, "holdout": 0.25},
        "constraints": [{"name": "no_z", "oracle": {"kind": "regex", "pattern": "z"}}],
        "sampling": {"max_new_tokens": 6, "batch_size": 8},
        "guidance": {"iterations": 2, "samples": 16},
        "nado": {"width": 8, "heads": 2, "rank": 4},
        "nado_fit": {"epochs": 1, "consistency_positions": 8},
        "training": {"max_steps": 4, "batch_size": 4, "bf16": False},
        "baselines": {"reinforcement": {"prompts_per_step": 2, "generations": 2}},
        "output_dir": str(tmp_path / "run"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path
