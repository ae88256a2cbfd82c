"""`adhere sample` and `adhere label`: outputs of a model, guided or not, and what an oracle says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from adhere.data.prompts import fit_to_context, read_prompts
from adhere.data.reading import read_rows
from adhere.errors import CorpusError, RunFolderError
from adhere.files import write_text_atomic
from adhere.oracles.again import judge_again
from adhere.oracles.base import judge
from adhere.oracles.config import OracleConfig, build_oracle
from adhere.recipe.folder import RECIPE, saved_recipe
from adhere.recipe.inputs import build_constraints
from adhere.recipe.progress import Progress, silent
from adhere.recipe.trained import GUIDED, guide_of, load_base, load_model, load_trained
from adhere.records import Prompt, Sample
from adhere.sampling.sampler import SamplingConfig, TransformersSampler, draw_all

_CHUNK = 64


def sample_run(
    source: str | Path,
    prompts: Path | Sequence[str],
    n: int,
    out: Path | None = None,
    guided: bool = False,
    seed: int = 0,
    sampling: SamplingConfig | None = None,
    *,
    base: bool = False,
    progress: Progress | None = None,
) -> list[Sample]:
    """Sample a model.

    Args:
        source: a run folder (its trained model), or a hub id or folder of a model.
        prompts: a file of prompts, or the prompts.
        n: outputs a prompt.
        out: JSONL file for the samples, one a line; None to write none.
        guided: tilt every next token by the run's last NADO, towards outputs that satisfy its constraints.
        seed: of the samples.
        sampling: how; without it, the run's own `sampling` section.
        base: of a run, sample the model that it began with.
        progress: told of every batch.

    Raises:
        RunFolderError: `guided` or `base` with a model instead of a run, or a run that has not ended.
        ModelError, CorpusError, GuidanceError: what cannot be loaded, read or guided.
    """
    folder = Path(source)
    is_run = (folder / RECIPE).exists()
    if not is_run and (guided or base):
        raise RunFolderError(
            f"{source} is no run folder (it has no {RECIPE}); guided samples need a run, whose NADO guides"
        )
    guide = None
    if is_run:
        recipe = saved_recipe(folder)
        policy = load_base(recipe) if base else load_trained(folder, recipe)
        if guided and (base or recipe.method != GUIDED):  # of guided-decoding the model itself is guided
            targets = {constraint.name: constraint.target for constraint in build_constraints(recipe.constraints)}
            guide = guide_of(folder, recipe, targets, policy if base else None)
        how = sampling or recipe.sampling
    else:
        policy, how = load_model(str(source)), sampling or SamplingConfig()
    asked = read_prompts(prompts) if isinstance(prompts, Path) else [Prompt(i, text) for i, text in enumerate(prompts)]
    asked = fit_to_context(asked, policy.tokenizer, policy.context_length, how.max_new_tokens)
    tell = progress or silent
    sampler = TransformersSampler(policy.model, policy.tokenizer, how, guide)
    samples = list(
        draw_all(
            sampler,
            asked,
            seed=seed,
            samples_per_prompt=n,
            progress=lambda done, total, speed: tell("sampling", done, total, f"{speed:,.0f} tokens/s"),
        )
    )
    samples.sort(key=lambda sample: (sample.prompt_index, sample.replicate))
    if out is not None:
        write_text_atomic(out, "".join(json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples))
    return samples


def label_file(
    samples: Path, oracle: OracleConfig, out: Path, *, progress: Progress | None = None
) -> list[float | None]:
    """Judge the outputs of a JSONL file (column `output`, else `completion` or `text`); write them with their `score`.

    Args:
        samples: such as `sample_run` wrote; other columns are kept.
        oracle: who judges.
        out: JSONL file, the same rows with `score` (null: no verdict) and `oracle`.
        progress: told of every few rows.

    Returns:
        the scores, in the order of the rows.

    Raises:
        CorpusError: the file cannot be read, or a row has no output. OracleError: the oracle broke its contract.
    """
    judging, tell = build_oracle(oracle), progress or silent
    rows = [(place, dict(row)) for place, row in read_rows(samples)]
    if not rows:
        raise CorpusError(f"{samples}: no rows in it")
    outputs = [_text(place, row) for place, row in rows]
    prompts = [str(row.get("prompt") or "") for _, row in rows]
    scores: list[float | None] = []
    for start in range(0, len(rows), _CHUNK):
        scores += judge(judging, prompts[start : start + _CHUNK], outputs[start : start + _CHUNK])
        tell("judging", len(scores), len(rows))
    scores = judge_again(judging, prompts, outputs, scores)
    lines = [{**row, "score": score, "oracle": judging.name} for (_, row), score in zip(rows, scores, strict=True)]
    write_text_atomic(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return scores


def _text(place: str, row: dict[str, object]) -> str:
    for column in ("output", "completion", "text"):
        if isinstance(text := row.get(column), str):
            return text
    raise CorpusError(f"{place}: no output to judge: a row has a string `output`, `completion` or `text`")
