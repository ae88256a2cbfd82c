"""`adhere train`: a recipe to a trained model in a run folder, from the beginning or from where it was stopped."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from adhere import ranks
from adhere.costs import Ledger
from adhere.digests import digests_of, seal
from adhere.errors import RunFolderError
from adhere.files import cannot_write, disk_error, whole_folder, write_json_atomic
from adhere.models.policy import Policy, load_policy
from adhere.recipe.after_fine_tuning import fit_guidance
from adhere.recipe.check import Prepared, prepare_together
from adhere.recipe.checkpoints import checkpoints, newest_whole
from adhere.recipe.folder import FINISHED, MODEL, begin, check_folder, finished
from adhere.recipe.lock import run_lock
from adhere.recipe.manifest import add_digests
from adhere.recipe.progress import Progress, silent
from adhere.recipe.schema import Recipe
from adhere.recipe.stage_trainers import stage_trainer
from adhere.recipe.stages import Stage, load_stage, stages_of
from adhere.recipe.trained import GUIDED, load_policy_of

HISTORY = "log_history.json"
REFERENCE_ADAPTER = "ref"
"""What TRL calls the copy of an adapter that it keeps beside it."""

History = list[dict[str, Any]]


def train_recipe(recipe: Recipe, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train the model of a recipe by its method; under a launcher all processes call this, and the first one writes.

    Args:
        recipe: the run; its `output_dir` is the run folder.
        resume: go on with the run that the folder holds, from its newest whole checkpoint; samples, labels and guidance
            that are on disk are used again. A finished run is left as it is.
        progress: told of every part.

    Returns:
        the run folder, with the model in `model/` and what it has cost in `costs.json`.

    Raises:
        RunFolderError: the folder holds another run or is in use, or the disk is full: what was written stands.
        ModelError, CorpusError, OracleError, GuidanceError, RecipeError, DownloadError: as `check_recipe`.
    """
    folder = recipe.output_dir
    ranks.join()
    ranks.on_first(lambda: check_folder(recipe, resume))
    if resume and ranks.on_first(lambda: finished(folder)) is not None:
        return folder
    load = cache(lambda: load_policy(recipe.model, recipe.seed))
    prepared = prepare_together(recipe, load, resume=resume)
    with ExitStack() as held:
        ranks.on_first(lambda: held.enter_context(run_lock(folder)))
        ranks.on_first(lambda: _begin(recipe, resume))
        try:
            _train(recipe, prepared, load, resume, progress or silent)
        except (OSError, RuntimeError, SafetensorError) as error:
            if (of_disk := disk_error(error)) is not None:
                raise cannot_write(folder, of_disk) from error
            raise
    return folder


def _begin(recipe: Recipe, resume: bool) -> None:
    check_folder(recipe, resume)  # again: another process may have begun here meanwhile
    begin(recipe)


def _train(recipe: Recipe, prepared: Prepared, load: Any, resume: bool, progress: Progress) -> None:
    """Every stage in turn; each begins with the model that the one before has saved."""
    folder = recipe.output_dir
    history: History = []
    steps, before = 0, None
    for stage in stages_of(recipe, len(prepared.inputs.rows)):
        if stage.folder == folder or finished(stage.folder) is None:
            policy = load() if before is None else load_stage(recipe, before / MODEL)
            load.cache_clear()  # one model in memory is enough
            done, told = _train_stage(recipe, prepared, policy, stage, steps, resume, progress)
            del policy
        else:
            done, told = _told(stage)
        history += [{**line, "step": line.get("step", 0) + steps} for line in told]
        steps, before = steps + done, stage.folder
    if recipe.method == GUIDED:
        history.append(fit_guidance(recipe, prepared, load_policy_of(folder, recipe), steps, progress))
    ranks.on_first(lambda: _finish(folder, steps, history))


def _finish(folder: Path, steps: int, history: History) -> None:
    write_json_atomic(folder / HISTORY, _without_nan(history))
    costs = Ledger(folder).write()
    add_digests(folder)
    digests = digests_of(folder, [folder / "manifest.json"])
    write_json_atomic(folder / FINISHED, {"train_seconds": costs.train_seconds, "steps": steps, "digests": digests})


def _train_stage(
    recipe: Recipe, prepared: Prepared, policy: Policy, stage: Stage, before: int, resume: bool, progress: Progress
) -> tuple[int, History]:
    """Train a stage and save its model. Returns its steps and its log, which one before the last also has on disk."""
    if stage.steps == 0:
        steps, history = 0, []
        _save_model(lambda path: _save_as_it_is(policy, path), stage.folder / MODEL)
    else:
        checkpoint = ranks.on_first(lambda: newest_whole(stage.folder)) if resume else None
        trainer = stage_trainer(recipe, prepared, policy, stage, before, progress)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if REFERENCE_ADAPTER in getattr(policy.model, "peft_config", {}):
            policy.model.delete_adapter(REFERENCE_ADAPTER)
        _save_model(trainer.save_model, stage.folder / MODEL)
        steps, history = int(trainer.state.global_step), _without_nan(trainer.state.log_history)
    if stage.folder != recipe.output_dir:
        write_json_atomic(stage.folder / HISTORY, history)
        write_json_atomic(stage.folder / FINISHED, {"steps": steps})
        for _, path in checkpoints(stage.folder):  # gigabytes that only a stage that has not ended needs
            shutil.rmtree(path)
    return steps, history


def _told(stage: Stage) -> tuple[int, History]:
    """Steps and log of a stage that ended in an earlier process. Raises RunFolderError when they cannot be read."""
    path = stage.folder / HISTORY
    try:
        return int((finished(stage.folder) or {})["steps"]), json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise RunFolderError(f"{path} is damaged: delete {stage.folder} to do that stage again") from error


def _save_model(save: Callable[[str], None], folder: Path) -> None:
    """Write the model (an adapter alone, where there is one) with its tokenizer, whole or not at all."""
    if not ranks.is_first():
        save(str(folder))  # gathers weights where they are sharded, and writes nothing
        return
    with whole_folder(folder) as part:
        save(str(part))
        (part / "training_args.bin").unlink(missing_ok=True)  # a pickle that a model needs no part of
        seal(part)


def _save_as_it_is(policy: Policy, path: str) -> None:
    policy.model.save_pretrained(path)
    policy.tokenizer.save_pretrained(path)


def _without_nan(history: History) -> History:
    """JSON has no NaN: such a number becomes null."""
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in line.items()}
        for line in history
    ]
