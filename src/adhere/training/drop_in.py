"""What users of transformers' Trainer expect beside the training: evaluation on rows of any shape, whole models, no upload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from adhere.errors import RecipeError
from adhere.training.config import NO_UPLOAD, ConstrainedConfig
from adhere.training.guarded import GuardedTrainer
from adhere.training.processes import whole_state
from adhere.training.rows import tokenised

if TYPE_CHECKING:
    from torch.utils.data import DataLoader
    from transformers import PreTrainedTokenizerBase


class DropIn(GuardedTrainer):
    """As `Trainer`, for rows of every shape that `train_dataset` may have.

    Attributes:
        config: the settings.
        tokenizer: the policy's.
    """

    config: ConstrainedConfig
    tokenizer: PreTrainedTokenizerBase

    def _evaluated(self, rows: Any) -> Any:
        """Rows to evaluate on, tokenised; a name stands for those of the constructor."""
        if isinstance(rows, dict):
            return {name: self._evaluated(part) for name, part in rows.items()}
        return rows if rows is None or isinstance(rows, str) else tokenised(rows, self.tokenizer, self.config)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """As in `Trainer`, for rows of every shape that `train_dataset` may have."""
        return super().get_eval_dataloader(self._evaluated(eval_dataset))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `Trainer`; the whole model, also where checkpoints keep its weights sharded."""
        with whole_state(self.accelerator):
            super().save_model(output_dir, _internal_call)

    def push_to_hub(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: it would upload the run folder, samples and labels with it."""
        raise RecipeError(NO_UPLOAD)
