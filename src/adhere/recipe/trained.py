"""The models of a run: the one it ended with, the one it began with, and its last guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import Tensor

from adhere.errors import GuidanceError, ModelError, RunFolderError
from adhere.guidance.guidance import Guidance
from adhere.models.frozen import FrozenModel, fast_dtype
from adhere.models.policy import ModelConfig, Policy, is_quantized, load_policy
from adhere.recipe.arguments import training_device
from adhere.recipe.folder import MODEL
from adhere.recipe.schema import Recipe
from adhere.recipe.stages import ADAPTER
from adhere.sampling.guided import NadoGuide
from adhere.sampling.guided_model import GuidedForCausalLM

if TYPE_CHECKING:
    from transformers import LogitsProcessor, PreTrainedModel

GUIDED = "guided-decoding"
"""The method whose model is a policy with its NADO."""


def load_base(recipe: Recipe) -> Policy:
    """The model before fine-tuning, where inference runs. Raises as `load_policy`."""
    return _placed(load_policy(recipe.model.model_copy(update={"lora": None})))


def load_trained(folder: Path, recipe: Recipe) -> Policy:
    """The model that a run ended with; of the method guided-decoding that is the policy together with its NADO.

    Raises:
        RunFolderError: training has not ended yet.
        ModelError, DownloadError: it, or the model that its adapter belongs to, cannot be loaded.
        GuidanceError: it is to be guided, and its guidance is not there.
    """
    return load_guided(folder, recipe) if recipe.method == GUIDED else load_policy_of(folder, recipe)


def load_guided(folder: Path, recipe: Recipe) -> Policy:
    """The policy of a run of guided-decoding whose next-token distribution is the guided one. Raises as `load_trained`."""
    policy = load_policy_of(folder, recipe)
    reference = FrozenModel(policy.model, fast_dtype(policy.device))  # what NADO was fitted on
    fitted = last_guidance(folder, reference).nados.values()  # in the order of the recipe
    nados = [(nado, constraint.target) for nado, constraint in zip(fitted, recipe.constraints, strict=True)]
    with reference.lent() as still:
        return Policy(cast("PreTrainedModel", GuidedForCausalLM(still, nados)), policy.tokenizer)


def load_policy_of(folder: Path, recipe: Recipe) -> Policy:
    """The model that a run trained, without guidance. Raises as `load_trained`."""
    path = folder / MODEL
    if not path.is_dir():
        raise RunFolderError(f"{folder} holds no trained model yet ({MODEL}/ is missing): finish it with --resume")
    if (path / ADAPTER).exists():
        return with_adapter(load_base(recipe), path)
    return load_model(str(path), recipe.model)


def load_model(path: str, like: ModelConfig | None = None) -> Policy:
    """A model by hub id or folder, in the dtype of `like`, where inference runs. Raises as `load_policy`."""
    if (Path(path) / ADAPTER).exists():
        raise ModelError(f"{path} is an adapter; give the run folder it is in, which knows the model it belongs to")
    kept = {} if like is None else {"dtype": like.dtype, "trust_remote_code": like.trust_remote_code}
    return _placed(load_policy(ModelConfig(path=path, **kept)))


def with_adapter(base: Policy, path: Path) -> Policy:
    """A model with an adapter merged in: nothing but inference follows, and merged is faster.

    Quantised weights stay as they were in training, the adapter beside them: merged, they would be rounded again.
    """
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(base.model, str(path))
    if is_quantized(base.model):
        return Policy(cast("PreTrainedModel", adapted.eval()), base.tokenizer)
    return Policy(adapted.merge_and_unload(), base.tokenizer)


def last_guidance(folder: Path, reference: FrozenModel) -> Guidance:
    """The guidance that was made last in a run.

    Raises:
        GuidanceError: the run has none.
    """
    found = [path for path in sorted((folder / "guidance").glob("iteration-*")) if Guidance.exists(path)]
    if not found:
        raise GuidanceError(
            f"{folder} holds no guidance: only runs of the methods constrained and guided-decoding make it"
        )
    return Guidance.load(found[-1], reference.embeddings_VD)


def reference_of(recipe: Recipe, base: Policy | None = None) -> FrozenModel:
    """The frozen model before fine-tuning, as NADO read it in training."""
    base = base or load_base(recipe)
    return FrozenModel(base.model, fast_dtype(base.model.device))


def guide_of(
    folder: Path, recipe: Recipe, names: Mapping[str, float], base: Policy | None = None
) -> Callable[[Tensor], LogitsProcessor]:
    """Decode-time guidance by a run's last NADO, made anew for every batch from its prompts' mask.

    Args:
        names: the target of each constraint, by its name.
    """
    if recipe.method == GUIDED:
        base = load_policy_of(folder, recipe)  # what its NADO reads
    reference = reference_of(recipe, base)
    guidance = last_guidance(folder, reference)
    nados = [(nado, names.get(name, 1.0)) for name, nado in guidance.nados.items()]
    return lambda mask_BT: NadoGuide(nados, reference, mask_BT)


def _placed(policy: Policy) -> Policy:
    if not hasattr(policy.model, "hf_device_map") and getattr(policy.model, "quantization_method", None) is None:
        policy.model.to(training_device())  # type: ignore[arg-type]
    policy.model.eval()
    return policy
