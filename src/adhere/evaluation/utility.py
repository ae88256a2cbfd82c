"""The suite `utility`: what else a model can do, by lm-evaluation-harness in this process, on the loaded model.

Five sets of commonsense questions without examples, and MMLU with five.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import ndtri

from adhere.errors import CorpusError, ModelError, RecipeError
from adhere.evaluation.intervals import CONFIDENCE, wilson
from adhere.evaluation.multiple_choice import CHOICE_TASKS, COMMONSENSE, task_config
from adhere.evaluation.subject import Progress, Subject
from adhere.evaluation.suite_data import Row
from adhere.evaluation.suite_files import SuiteResult
from adhere.records import Measurement

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_BATCH = 8
_PART = 64  # questions with one choice each between two reports of progress
_SHARED = 64  # tokens that a batch has to begin with in common, for them to be read apart


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A set as the harness has it: one task of its own, or for MMLU on the hub one for each subject."""

    name: str
    tasks: Mapping[str, Any]


def load_tasks(rows: Mapping[str, Sequence[Row]], hub: Sequence[str] = ()) -> list[LoadedTask]:
    """Make the harness's tasks, so that what is missing shows before a model is loaded.

    Args:
        rows: of the sets that come from files.
        hub: names of the sets that the harness fetches itself.

    Raises:
        RecipeError: the harness is not installed. CorpusError: a set cannot be fetched, or has too few rows.
    """
    check_harness()
    from lm_eval.tasks import TaskManager

    with _quiet():
        own = TaskManager(include_defaults=False)
        loaded = [LoadedTask(name, own.load([task_config(name, of_task)])["tasks"]) for name, of_task in rows.items()]
        known = TaskManager() if hub else own  # reads some thousand files
        for name in hub:
            asked: dict[str, Any] | str = CHOICE_TASKS[name].harness
            try:
                tasks = known.load([asked])["tasks"]
            except Exception as error:  # the hub's client raises whatever its transport does
                reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
                raise CorpusError(
                    f"the set {name} cannot be fetched by lm-evaluation-harness: {reason}. Give files instead: --data "
                    f"FOLDER with a file {name}*.jsonl, or --data {name}=FILE"
                ) from error
            for task in tasks.values():
                task.set_config(key="num_fewshot", value=CHOICE_TASKS[name].shots)
            loaded.append(LoadedTask(name, tasks))
    return loaded


def check_harness() -> None:
    """Raises RecipeError where lm-evaluation-harness is not installed."""
    from importlib.util import find_spec

    if find_spec("lm_eval") is None:
        raise RecipeError(
            "the suite utility needs lm-evaluation-harness: install it with pip install 'adhere[eval]', or leave utility out"
        )


def utility_suite(
    subject: Subject, tasks: Sequence[LoadedTask], limit: int | None, seed: int, told: Progress
) -> SuiteResult:
    """Ask the model every set.

    Args:
        tasks: of `load_tasks`.
        limit: questions a set at most (of sets with rows of ours they are already that few); the same for every model.

    Returns:
        `accuracy` of every set by the metric that it is reported by (tag `metric`: acc, or acc_norm per byte of the
        choice), also by plain `acc` where that is another, and the mean over the commonsense sets where all are there.

    Raises:
        ModelError: the model's likelihoods are not numbers, or an answer is longer than its context.
    """
    from lm_eval import evaluate

    measured: list[Measurement] = []
    items: list[Mapping[str, object]] = []
    for each in tasks:
        harness = _harness_model(subject, each.name, told)
        chosen = _chosen(each, limit, seed)
        with _quiet(), torch.inference_mode():
            found = evaluate(harness, {"tasks": dict(each.tasks)}, samples=chosen, bootstrap_iters=0)
        samples = [(task, sample) for task, of_task in found["samples"].items() for sample in of_task]
        if not all(np.isfinite(likelihood[0]) for _, s in samples for likelihood in s["filtered_resps"]):
            raise ModelError(f"the model's likelihoods on {each.name} are not numbers: training diverged")
        told(f"{each.name} {subject.name}", len(samples), len(samples), "")
        metric = CHOICE_TASKS[each.name].metric
        for name in dict.fromkeys([metric, "acc"]):
            measured.append(_accuracy(each.name, name, [sample[name] for _, sample in samples], name == metric))
        items += [
            {"task": each.name, "part": task, "number": sample["doc_id"], "acc": sample["acc"], metric: sample[metric]}
            for task, sample in samples
        ]
    return SuiteResult(subject.name, "utility", (*measured, *_mean(measured)), items=tuple(items))


def _accuracy(task: str, metric: str, right: Sequence[float], is_reported: bool) -> Measurement:
    tags = {"task": task, "metric": metric, "shots": str(CHOICE_TASKS[task].shots), "interval": "wilson"}
    name = "accuracy" if is_reported else "accuracy_plain"
    return Measurement(name, *wilson(round(sum(right)), len(right)), n=len(right), tags=tags)


def _mean(measured: Sequence[Measurement]) -> Iterator[Measurement]:
    """The mean over the commonsense sets, each counting the same; the interval is normal, of independent sets."""
    of_set = {m.tags["task"]: m for m in measured if m.name == "accuracy" and m.tags["task"] in COMMONSENSE}
    if len(of_set) < len(COMMONSENSE):
        return
    value = sum(m.value for m in of_set.values()) / len(of_set)
    variance = sum(m.value * (1 - m.value) / m.n for m in of_set.values()) / len(of_set) ** 2
    reach = float(ndtri((1 + CONFIDENCE) / 2)) * variance**0.5
    tags = {"task": "commonsense, mean", "interval": "normal"}
    count = sum(m.n for m in of_set.values())
    yield Measurement("accuracy", value, max(0.0, value - reach), min(1.0, value + reach), n=count, tags=tags)


def _chosen(task: LoadedTask, limit: int | None, seed: int) -> dict[str, list[int]] | None:
    """Which questions, by number: as many of every part, at random but the same for every model."""
    if limit is None:
        return None
    of_part = max(1, -(-limit // len(task.tasks)))
    generator = np.random.default_rng(seed)
    sizes = {name: len(part.eval_docs) for name, part in task.tasks.items()}
    return {name: sorted(generator.permutation(size)[:of_part].tolist()) for name, size in sizes.items()}


class _Callable:
    """The model as the harness calls it: no module, so that the harness leaves its mode and its weights alone.

    What all rows of a batch begin with (MMLU's five examples) is read once for all of them.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.device: torch.device = model.device
        self.config: PretrainedConfig = model.config

    def __call__(self, input_ids: torch.Tensor) -> Any:
        same = (input_ids == input_ids[:1]).all(0).long().cumprod(0)
        shared = min(int(same.sum()), input_ids.shape[1] - 1)
        if len(input_ids) > 1 and shared >= _SHARED and _can_share(self._model):
            return self._in_two(input_ids, shared)
        return self._model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False)

    def _in_two(self, input_ids: torch.Tensor, shared: int) -> Any:
        beginning = input_ids[:1, :shared]
        first = self._model(input_ids=beginning, attention_mask=torch.ones_like(beginning), use_cache=True)
        first.past_key_values.batch_repeat_interleave(len(input_ids))
        rest = self._model(
            input_ids=input_ids[:, shared:],
            attention_mask=torch.ones_like(input_ids),
            past_key_values=first.past_key_values,
            use_cache=True,
        )
        rest.logits = torch.cat([first.logits.expand(len(input_ids), -1, -1), rest.logits], 1)
        return rest


def _can_share(model: Any) -> bool:
    """Whether a cache filled by one row can go on as that of many: attention to all that went before, nothing else.

    A guided model is left out: what it takes for the prompt is what its cache was filled with first.
    """
    from transformers import PreTrainedModel

    from adhere.sampling.guided_model import GuidedForCausalLM

    if not isinstance(model, PreTrainedModel) or isinstance(model, GuidedForCausalLM) or model._is_stateful:
        return False
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and getattr(config, "sliding_window", None) is None


def _harness_model(subject: Subject, task: str, told: Progress) -> Any:
    from lm_eval.models.huggingface import HFLM

    class Reporting(HFLM):  # type: ignore[misc]  # the harness ships no types
        """Asks part by part, so that progress can be told."""

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            # Alike in length together, so that little is padded; the choices of a question stay side by side.
            order = sorted(range(len(requests)), key=lambda place: (-len(requests[place].args[0]), place))
            found: dict[int, tuple[float, bool]] = {}
            for start in range(0, len(order), _PART):
                places = order[start : start + _PART]
                part = super().loglikelihood([requests[place] for place in places], disable_tqdm=True)
                found.update(zip(places, part, strict=True))
                told(f"{task} {subject.name}", len(found), len(order), "answers")
            return [found[place] for place in range(len(requests))]

        def _loglikelihood_tokens(self, requests: list[Any], *rest: Any, **how: Any) -> list[tuple[float, bool]]:
            (_, answer), _, longest = max(requests, key=lambda request: len(request[2]))
            if len(longest) > self.max_length:
                raise ModelError(
                    f"{task}: the answer {answer.strip()[:40]!r}… has {len(longest)} tokens, and the model's context is "
                    f"{self.max_length}: leave {task} out (--data names the sets), or evaluate a model that can read it"
                )
            return super()._loglikelihood_tokens(requests, *rest, **how)  # type: ignore[no-any-return]

    with _quiet():
        return Reporting(
            pretrained=_Callable(subject.model),
            tokenizer=subject.tokenizer,
            backend="causal",
            batch_size=_BATCH,
            softmax_dtype="float32",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness warns of what is meant to be so: a model handed over loaded, tasks that are no files."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
