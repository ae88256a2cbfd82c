"""Where `ConstrainedTrainer` is used as a `Trainer` is: evaluation, optimisers, the hub, several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.data.collation import ConstrainedCollator
from adhere.errors import ModelError, RecipeError
from adhere.guidance.constraint import Constraint
from adhere.training.config import ConstrainedConfig
from adhere.training.rows import tokenised
from adhere.training.trainer import ConstrainedTrainer

MakeConfig = Callable[..., ConstrainedConfig]
HELD_OUT = [{"prompt": "the elk", "completion": " is good."}, {"prompt": "the emu", "completion": " is."}]


@pytest.fixture
def make(
    make_config: MakeConfig,
    tiny_model: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    corpus: list[dict[str, str]],
    no_z: Constraint,
) -> Callable[..., ConstrainedTrainer]:
    def make(eval_dataset: Any = None, optimizers: Any = (None, None), **changed: Any) -> ConstrainedTrainer:
        return ConstrainedTrainer(
            tiny_model, make_config(**changed), corpus, [no_z], tiny_tokenizer,
            eval_dataset=eval_dataset, optimizers=optimizers,
        )  # fmt: skip

    return make


def _cross_entropy(trainer: ConstrainedTrainer, rows: list[dict[str, str]]) -> float:
    batch = ConstrainedCollator(trainer.tokenizer)(list(tokenised(rows, trainer.tokenizer, trainer.config)))
    kept = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    assert trainer.model is not None
    with torch.no_grad():
        return float(trainer.model.eval()(**kept).loss)


def test_the_loss_on_rows_held_out_is_logged_in_training(make: Callable[..., ConstrainedTrainer]) -> None:
    trainer = make(HELD_OUT, eval_strategy="steps", eval_steps=2)
    trainer.train()
    told = [(line["step"], line["eval_loss"]) for line in trainer.state.log_history if "eval_loss" in line]
    assert [step for step, _ in told] == [2, 4]
    assert told[-1][1] == pytest.approx(_cross_entropy(trainer, HELD_OUT), rel=1e-4)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(told[-1][1])


@pytest.mark.parametrize("rows", [HELD_OUT, Dataset.from_list(HELD_OUT)])
def test_raw_rows_are_evaluated_before_any_training(make: Callable[..., ConstrainedTrainer], rows: Any) -> None:
    trainer = make()
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(_cross_entropy(trainer, HELD_OUT), rel=1e-4)


def test_several_evaluation_sets_go_by_their_names(make: Callable[..., ConstrainedTrainer]) -> None:
    trainer = make({"elks": HELD_OUT[:1], "emus": HELD_OUT[1:]})
    told = trainer.evaluate()
    assert told["eval_elks_loss"] == pytest.approx(_cross_entropy(trainer, HELD_OUT[:1]), rel=1e-4)
    assert told["eval_emus_loss"] == pytest.approx(_cross_entropy(trainer, HELD_OUT[1:]), rel=1e-4)


def test_an_optimiser_of_ones_own_is_used(
    make: Callable[..., ConstrainedTrainer], tiny_model: LlamaForCausalLM
) -> None:
    before = {name: weight.detach().clone() for name, weight in tiny_model.named_parameters()}
    still = torch.optim.SGD([tiny_model.lm_head.weight], lr=0.5)
    trainer = make(optimizers=(still, None), max_steps=1, iterations=1)
    trainer.train()
    moved = {name for name, weight in tiny_model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {"lm_head.weight"}


def test_processes_that_no_launcher_has_numbered_are_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    monkeypatch.setattr(ConstrainedConfig, "world_size", 2)
    with pytest.raises(RecipeError, match="trains in 2 processes here, and the environment names 1"):
        ConstrainedTrainer("nothing is loaded before", config, [], [])


def test_a_run_folder_is_not_pushed_to_the_hub(
    make: Callable[..., ConstrainedTrainer], make_config: MakeConfig
) -> None:
    with pytest.raises(RecipeError, match=r"push_to_hub: .*samples and labels.*model\.push_to_hub"):
        make_config(push_to_hub=True)
    with pytest.raises(RecipeError, match="samples and labels"):
        make().push_to_hub()


def test_sequences_longer_than_the_model_takes_are_refused(make: Callable[..., ConstrainedTrainer]) -> None:
    assert make(max_length=64).config.max_length == 64
    with pytest.raises(ModelError, match="max_length is 65 tokens, and the model takes at most 64"):
        make(max_length=65)


def test_tokens_are_counted_in_what_every_device_has(
    make: Callable[..., ConstrainedTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """float64 is not for Apple's GPUs, and float32 not for counts."""
    trainer = make(max_steps=1, iterations=1)
    seen: list[torch.dtype] = []

    def gather(tensor: Tensor) -> Tensor:
        seen.append(tensor.dtype)
        return tensor

    monkeypatch.setattr(trainer.accelerator, "gather", gather)
    trainer.train()
    assert seen == [torch.long]
