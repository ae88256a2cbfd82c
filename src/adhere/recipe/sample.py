"""`adhere sample`: outputs of a model, guided or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from adhere.data.prompts import fit_to_context, read_prompts
from adhere.data.rows import check_unicode
from adhere.errors import RunFolderError
from adhere.files import write_text_atomic
from adhere.recipe.folder import RECIPE, saved_recipe
from adhere.recipe.inputs import build_constraints
from adhere.recipe.progress import Progress, silent
from adhere.recipe.trained import GUIDED, guide_of, load_base, load_model, load_trained
from adhere.records import Prompt, Sample
from adhere.sampling.sampler import SamplingConfig, TransformersSampler, draw_all


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
    asked = read_prompts(prompts) if isinstance(prompts, Path) else [Prompt(i, text) for i, text in enumerate(prompts)]
    for prompt in asked:
        check_unicode(f"prompt {prompt.index + 1}", prompt.text)
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
