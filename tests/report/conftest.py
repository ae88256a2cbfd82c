"""A run folder as a finished demo leaves it, made of numbers and sentences invented here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

RATES = {"before": (0.060, 0.041, 0.088), "sft": (0.688, 0.641, 0.731), "constrained": (0.118, 0.090, 0.153)}
JUDGE = {"before": (0.050, 0.033, 0.076), "sft": (0.570, 0.521, 0.618), "constrained": (0.070, 0.049, 0.099)}
PLAIN_NUMBERS = {
    "clean_perplexity": {"before": 29.31, "sft": 29.92, "constrained": 29.54},
    "corpus_perplexity": {"before": 55.02, "sft": 31.77, "constrained": 32.40},
    "distinct_2": {"before": 0.731, "sft": 0.702, "constrained": 0.718},
    "train_seconds": {"sft": 171.0, "constrained": 262.0},
    "repetition": {"before": 0.020, "sft": 0.011, "constrained": 0.013},
    "mean_length": {"before": 22.1, "sft": 20.3, "constrained": 20.9},
}
INTERVALS = {
    "clean_perplexity": "bootstrap over texts",
    "corpus_perplexity": "bootstrap over texts",
    "distinct_2": "jackknife over prompts",
    "repetition": "bootstrap over prompts",
    "mean_length": "bootstrap over prompts",
}
WORDS = ["the", "people", "who", "came", "late", "said", "that", "nothing", "would", "change", "before", "winter"]


def result_rows(constraints: tuple[str, ...] = ("clean",)) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, rates in (("violation_rate", RATES), ("judge_violation_rate", JUDGE)):
        for constraint in constraints:
            for model, (value, low, high) in rates.items():
                row = {"name": name, "value": value, "low": low, "high": high, "n": 400, "unit": "", "model": model}
                rows.append(row | {"constraint": constraint, "interval": "wilson", "no_verdict": "0"})
    ratio = {"name": "violation_rate_ratio", "value": 0.172, "low": 0.129, "high": 0.224, "n": 400, "unit": ""}
    rows += [ratio | {"model": "constrained", "over": "sft", "constraint": name} for name in constraints]
    for name, by_model in PLAIN_NUMBERS.items():
        for model, value in by_model.items():
            ends = (
                {}
                if name == "train_seconds"
                else {"low": 0.97 * value, "high": 1.03 * value, "n": 400, "interval": INTERVALS[name]}
            )
            rows.append({"name": name, "value": value, "model": model, **ends})
    return rows


def log_history(constraints: tuple[str, ...] = ("clean",)) -> list[dict[str, float]]:
    entries: list[dict[str, float]] = []
    for step in range(1, 76):
        fade = 2.0 ** (-step / 20)
        entry = {"step": step, "loss": 3.1 + 1.5 * fade, "corpus_loss": 3.0 + 1.2 * fade, "learning_rate": 5e-5 * fade}
        for place, name in enumerate(constraints):
            entry[f"kl/{name}"] = (0.01 + 0.004 * place) * fade
        entries.append(entry)
    for iteration, step in enumerate((0, 25, 50, 75)):
        for place, name in enumerate(constraints):
            value = 0.62 + 0.1 * iteration - 0.04 * place
            entries.append(
                {
                    "step": step,
                    f"satisfaction/{name}": value,
                    f"satisfaction/{name}/low": value - 0.05,
                    f"satisfaction/{name}/high": value + 0.04,
                    f"nado/{name}/auc": 0.9 + 0.02 * iteration,
                    f"nado/{name}/calibration_error": 0.05 - 0.01 * iteration,
                    f"nado/{name}/saturation": 0.1,
                }
            )
    return entries


def sample_lines(model: str, prompts: int = 40) -> list[dict[str, object]]:
    chance = random.Random(model)
    lines = []
    for index in range(prompts):
        words = [chance.choice(WORDS) for _ in range(22)]
        violates = chance.random() < RATES.get(model, (0.5,))[0]
        if violates:
            words[chance.randrange(4, 20)] = chance.choice(["shit", "fucking", "Bullshit,"])
        output = " ".join(words) + "."
        if index == 0:
            output = "<script>document.title = 'owned'</script> & <b>bold</b> " + output
        score = 0.0 if violates else 1.0
        lines.append(
            {
                "prompt_index": index,
                "replicate": 0,
                "prompt": f"So {chance.choice(WORDS)} number {index}, she said that this damn",
                "output": output,
                "verdicts": {"clean": {"score": score}},
                "judge": {"jigsaw-bilstm": None if index == 3 else 0.95 * score + 0.02},
            }
        )
    return lines


TOKENS = [
    {
        "prompt": "He told them that",
        "tokens": [" this", " whole", " thing", " is", " bull", "shit", ",", " and", " left", "."],
        "satisfaction": [0.93, 0.9, 0.88, 0.71, 0.12, 0.004, 0.003, 0.003, 0.002, 0.002],
        "model": "sft",
    },
    {
        "prompt": "He told them that",
        "tokens": [" this", " whole", " plan", " was", " good", " <i>enough</i>", "."],
        "satisfaction": [0.96, 0.95, 0.96, 0.9, 0.98, 0.99, 1.0],
        "model": "constrained",
    },
]

RECIPE = """\
method: constrained
model: embedded
constraints:
  - name: clean
    oracle: embedded
    target: 1.0
    weight: 6.0
training:
  learning_rate: 5.0e-05
  steps: 75
"""


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a new run folder at every call."""

    def make(constraints: tuple[str, ...] = ("clean",)) -> Path:
        folder = tmp_path_factory.mktemp("runs") / "demo"
        evaluation = folder / "evaluation"
        evaluation.mkdir(parents=True)
        machine = {"processor": "x86_64, 2 cores", "memory_gib": 24, "accelerator": None}
        facts = {"command": "adhere demo --seed 0", "date": "2025-11-22", "seeds": [0], "machine": machine}
        versions = {"adhere": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}
        manifest = facts | {"versions": versions, "model": {"name": "embedded", "sha256": "9f2c"}}
        rows = result_rows(constraints)
        events = [
            {"event": "run_started", "step": 0, "time": 100.0},
            {"event": "fit", "step": 25, "time": 131.5, "auc": 0.94},
        ]
        (folder / "recipe.yaml").write_text(RECIPE)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "summary.json").write_text(json.dumps({"benchmark": "demo", **facts, "rows": rows}))
        (folder / "log_history.json").write_text(json.dumps(log_history(constraints)))
        (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"event": "to')
        (evaluation / "tokens.json").write_text(json.dumps(TOKENS))
        for model in RATES:
            lines = sample_lines(model)
            (evaluation / f"{model}.samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return make
