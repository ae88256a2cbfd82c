"""How often a model's outputs violate while it is trained, and what it knows of the corpus, against what has been spent."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from transformers import Trainer

    from adhere.recipe.check import Prepared
    from adhere.recipe.schema import Recipe

Point = dict[str, float]


class Curve:
    """Measures a policy every few steps, on held-out prompts, by the oracle that it is trained against.

    And the perplexity of the held-out rows of the corpus that satisfy the constraints, their prompts given.

    Args:
        prompts: how many prompts, one output each.
        every: steps between two measurements.
        target: violations at which reinforcement learning may stop.
        forgotten: and the corpus perplexity, over that after the stage before.
    """

    def __init__(
        self,
        recipe: Recipe,
        prepared: Prepared,
        tokenizer: Any,
        prompts: int,
        every: int,
        target: float,
        forgotten: float,
    ) -> None:
        from adhere.recipe.inputs import satisfying

        self.points: list[Point] = []
        self._recipe, self._prepared, self._tokenizer = recipe, prepared, tokenizer
        self._target, self._forgotten = target, forgotten
        self._prompts, self._every = prepared.inputs.heldout_prompts[:prompts], every
        self._heldout = satisfying(prepared.inputs.heldout, prepared.constraints)
        self._before = self._measuring = 0.0  # seconds: of earlier stages, and of measuring in this one
        self._steps = 0

    def of_stage(self, steps: int, *, stops: bool) -> TrainerCallback:
        """A callback for a stage's trainer.

        Args:
            steps: of the stages before.
            stops: whether the stage may end once the target is reached.
        """
        self._steps, self._measuring = steps, 0.0
        return _Measuring(self, stops)

    def end_stage(self, trainer: Trainer, seconds: float) -> None:
        """Count a stage, and measure what it ended with where its last step was not measured."""
        step, measuring = self._steps + int(trainer.state.global_step), self._measuring  # `seconds` has no later one
        if not self.points or self.points[-1]["step"] != step:
            self.measure(trainer.model, int(trainer.state.global_step), seconds)
        self._before += seconds - measuring

    def due(self, step: int) -> bool:
        return step % self._every == 0

    def there(self) -> bool:
        """The last two measurements of this stage are at the target, with the corpus not forgotten."""
        before, here = split(self.points, self._steps)
        return (
            len(here) >= 2
            and reached(here[-2:], self._target, self._forgotten * before[-1]["corpus_perplexity"]) is here[-2]
        )

    def measure(self, model: Any, step: int, seconds: float) -> None:
        """Draw and judge outputs.

        Args:
            model: as it stands.
            step: of this stage.
            seconds: since it began, measuring included.
        """
        from adhere.costs import Ledger
        from adhere.evaluation.evaluate import inference_model, judged
        from adhere.evaluation.perplexity import example_perplexity
        from adhere.evaluation.satisfaction import scores_by_prompt, violation_rate
        from adhere.sampling.sampler import TransformersSampler, draw_all

        minutes = (self._before + seconds - self._measuring) / 60
        start, spent = time.perf_counter(), Ledger(self._recipe.output_dir).total()
        with inference_model(model) as still:
            sampler = TransformersSampler(still, self._tokenizer, self._recipe.sampling)
            samples = list(draw_all(sampler, self._prompts, seed=self._recipe.seed))
            corpus = example_perplexity(still, self._heldout)
        oracles = {constraint.name: constraint.oracle for constraint in self._prepared.constraints}
        completions = judged(samples, oracles)
        rates = [violation_rate(scores_by_prompt(completions, name)) for name in oracles]
        worst = max(rates, key=lambda rate: rate.value)
        self.points.append(
            {
                "step": float(self._steps + step),
                "minutes": minutes,
                "tokens": float(spent.trained_tokens + spent.generated_tokens),
                "oracle_calls": float(spent.oracle_calls + spent.prefix_scores),
                "rate": worst.value,
                "low": worst.value if worst.low is None else worst.low,
                "high": worst.value if worst.high is None else worst.high,
                "n": float(worst.n),
                "corpus_perplexity": corpus.value,
            }
        )
        self._measuring += time.perf_counter() - start


class _Measuring(TrainerCallback):
    def __init__(self, curve: Curve, stops: bool) -> None:
        self._curve, self._stops, self._start = curve, stops, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self._curve.due(state.global_step):
            self._curve.measure(model, int(state.global_step), time.perf_counter() - self._start)
            control.should_training_stop |= self._stops and self._curve.there()


def split(points: Sequence[Point], steps: int) -> tuple[list[Point], list[Point]]:
    """Those of the first so many steps, and those after."""
    return [p for p in points if p["step"] <= steps], [p for p in points if p["step"] > steps]


def reached(points: Sequence[Point], target: float, corpus_perplexity: float = math.inf) -> Point | None:
    """The first of two measurements in a row that are at most the target; the last one may stand alone.

    Args:
        points: in order.
        target: violations.
        corpus_perplexity: that is allowed.
    """
    there = [point["rate"] <= target and point["corpus_perplexity"] <= corpus_perplexity for point in points]
    return next((point for n, point in enumerate(points) if all(there[n : n + 2])), None)


def curve_figure(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Violation rates over minutes, one line a method, learning rate and seed, with intervals, as a page without a network."""
    import plotly.graph_objects as go

    from adhere.files import write_text_atomic

    figure = go.Figure()
    points = [row for row in rows if row["name"] == "violation_rate" and "minutes" in row]
    for way, seed in dict.fromkeys((row["way"], row["seed"]) for row in points):
        line = [row for row in points if (row["way"], row["seed"]) == (way, seed)]
        rates = [row["value"] for row in line]
        figure.add_scatter(
            x=[float(row["minutes"]) for row in line],
            y=rates,
            error_y={"array": [row["high"] - row["value"] for row in line],
                     "arrayminus": [row["value"] - row["low"] for row in line], "thickness": 1},
            mode="lines+markers",
            name=f"{way}, seed {seed}",
        )  # fmt: skip
    figure.update_layout(
        xaxis_title="minutes of training", yaxis_title="outputs that violate", yaxis_tickformat=".0%",
        template="plotly_white", margin={"l": 70, "r": 20, "t": 20, "b": 60},
    )  # fmt: skip
    write_text_atomic(file, figure.to_html(include_plotlyjs=True, config={"displayModeBar": False}))
