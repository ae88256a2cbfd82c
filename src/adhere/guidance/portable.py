"""What a refresh in another process needs, as bytes: the constraints with their oracles, and how to build the model again.

Nothing here is read from disk or the network: the bytes go from the trainer to a process that it has started itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cloudpickle
from safetensors.torch import load_file, save_file

from adhere.errors import ModelError, RecipeError
from adhere.files import whole_file
from adhere.guidance.constraint import Constraint
from adhere.models.frozen import FrozenModel
from adhere.models.policy import ModelConfig, add_adapter, is_quantized, load_policy

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PretrainedConfig, PreTrainedModel


def pack_constraints(constraints: Sequence[Constraint]) -> bytes:
    """The constraints as bytes. An oracle that was built from a section of a recipe goes as that section.

    Raises:
        RecipeError: an oracle that cannot be sent: which, why, and what can be done.
    """
    packed = []
    for constraint in constraints:
        values = {field.name: getattr(constraint, field.name) for field in fields(constraint)}
        section = constraint.oracle.section
        try:
            packed.append(cloudpickle.dumps({**values, "oracle": constraint.oracle if section is None else section}))
        except Exception as error:  # whatever an object raises when it is pickled
            raise RecipeError(
                f"the oracle of constraint {constraint.name!r} cannot be sent to another process ({error}): build it from a "
                "section of a recipe (adhere.oracles.config.build_oracle), make it of parts that can be pickled, or have "
                "guidance refreshed in this process (guidance.executor: in-process)"
            ) from error
    sent: bytes = cloudpickle.dumps(packed)
    return sent


def unpack_constraints(packed: bytes) -> list[Constraint]:
    """The constraints, in another process. Raises what building an oracle raises."""
    from adhere.oracles.base import Oracle
    from adhere.oracles.config import build_oracle

    constraints = []
    for part in cloudpickle.loads(packed):
        values: dict[str, Any] = cloudpickle.loads(part)
        oracle = values["oracle"]
        constraints.append(
            Constraint(**{**values, "oracle": oracle if isinstance(oracle, Oracle) else build_oracle(oracle)})
        )
    return constraints


@dataclass(frozen=True, slots=True)
class PortableModel:
    """How another process comes by the model as it was before fine-tuning.

    A model that was loaded by its configuration is loaded so again; of one that was handed over loaded, class and
    configuration are sent and the weights lie in a file. Weights of an adapter always do.
    """

    loaded_by: ModelConfig | None
    seed: int
    model_class: type[PreTrainedModel] | None
    config: PretrainedConfig | None
    generation: dict[str, Any]
    adapter: PeftConfig | None
    weights: Path | None

    @classmethod
    def of(cls, reference: FrozenModel, loaded_by: ModelConfig | None, seed: int, file: Path) -> PortableModel:
        """Describe the reference of a run.

        Args:
            reference: the model before fine-tuning.
            loaded_by: what it was loaded by, where that is known.
            seed: of the adapter's first weights.
            file: where weights are put that cannot be loaded again.

        Raises:
            ModelError: a quantised model that was handed over loaded.
        """
        with reference.lent() as model:
            adapted = hasattr(model, "peft_config")
            bare = cast("PeftModel", model).get_base_model() if adapted else model
            if loaded_by is None and is_quantized(cast("PreTrainedModel", bare)):
                raise ModelError(
                    "a quantised model that was loaded beforehand cannot be sent to another process: give its name or "
                    "folder as `model`, or have guidance refreshed in this process (guidance.executor: in-process)"
                )
            kept = {
                name: weight.detach()
                for name, weight in model.named_parameters()
                if loaded_by is None or (adapted and weight.requires_grad)
            }
            if kept:
                with whole_file(file) as part:
                    save_file({name: weight.contiguous().cpu() for name, weight in kept.items()}, part)
            whole = cast("PreTrainedModel", bare)
            generation = whole.generation_config
            return cls(
                loaded_by=loaded_by,
                seed=seed,
                model_class=None if loaded_by else type(whole),
                config=None if loaded_by else whole.config,
                generation={} if generation is None or loaded_by else generation.to_dict(),
                adapter=cast("PeftModel", model).peft_config["default"] if adapted else None,
                weights=file if kept else None,
            )

    def build(self) -> PreTrainedModel:
        """The model, in another process. Raises ModelError when it cannot be loaded."""
        if self.loaded_by is not None:
            model = load_policy(self.loaded_by, self.seed).model
            adapted = self.loaded_by.lora is not None
        else:
            assert self.model_class is not None and self.config is not None
            from transformers import GenerationConfig

            model, adapted = self.model_class(self.config).eval(), False
            model.generation_config = GenerationConfig.from_dict(self.generation)
        if self.adapter is not None and not adapted:
            model = add_adapter(model, self.adapter, seed=self.seed)
        if self.weights is not None:
            parameters = dict(model.named_parameters())
            for name, weight in load_file(self.weights).items():
                parameters[name].data = weight  # in the dtype that it has there
        return model
