"""A frozen model says tomorrow what it says today, whatever becomes of the model it was taken from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from adhere.models.frozen import FrozenModel, fast_dtype, frozen_pass, hidden_states, next_token_logits, unhooked
from adhere.models.policy import LoraSection, add_adapter, peft_config

Prepare = Callable[[PreTrainedModel], PreTrainedModel]

IDS_BT = torch.tensor([[7, 4, 11, 11, 14, 3], [20, 9, 1, 0, 0, 0]])
MASK_BT = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
REAL_BT = MASK_BT.bool()


class Stop(BaseException):
    """What no `except Exception` catches, as Ctrl-C is."""


@pytest.fixture(params=["full", "adapter"])
def live(request: pytest.FixtureRequest, tiny_model: LlamaForCausalLM) -> PreTrainedModel:
    """A model under training: all of it, or an adapter that has learned something already."""
    if request.param == "full":
        return tiny_model
    model = add_adapter(tiny_model, peft_config(LoraSection(r=2)))
    _train(model)
    return model


def _train(model: PreTrainedModel) -> None:
    """One step that is as large as the weights are."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn_like(weight))


def _logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS_BT, attention_mask=MASK_BT).logits[REAL_BT]


def _frozen_logits(frozen: FrozenModel) -> Tensor:
    with frozen.lent() as still:
        return _logits(still)


def _head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    logits: Tensor = model.get_output_embeddings()(hidden)
    return logits


def test_training_does_not_reach_a_frozen_model_nor_the_other_way_round(live: PreTrainedModel) -> None:
    before = _logits(live)
    frozen = FrozenModel(live)
    _train(live)
    after = _logits(live)
    assert (after - before).abs().max() > 0.1
    assert torch.equal(_frozen_logits(frozen), before)
    assert torch.equal(_logits(live), after)


def test_two_moments_can_be_held_at_once(live: PreTrainedModel) -> None:
    first, said_first = FrozenModel(live), _logits(live)
    _train(live)
    second, said_second = FrozenModel(live), _logits(live)
    _train(live)
    for frozen, said in ((second, said_second), (first, said_first), (second, said_second)):
        assert torch.equal(_frozen_logits(frozen), said)


@pytest.mark.parametrize("training", [True, False])
def test_a_lent_model_is_in_eval_mode_without_gradients_and_the_live_one_as_it_was(
    live: PreTrainedModel, training: bool
) -> None:
    live.train(training)
    frozen = FrozenModel(live)
    with frozen.lent() as still:
        assert not any(module.training for module in still.modules())
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert {module.training for module in live.modules()} == {training}
    assert any(weight.requires_grad for weight in live.parameters())


@pytest.mark.parametrize("error", [ValueError, Stop])
def test_the_live_model_is_put_back_also_when_its_borrower_fails(
    live: PreTrainedModel, error: type[BaseException]
) -> None:
    frozen = FrozenModel(live)
    _train(live)
    said = _logits(live)
    live.train()
    with pytest.raises(error), frozen.lent():
        raise error
    assert live.training and torch.is_grad_enabled()
    assert torch.equal(_logits(live.eval()), said)


def test_gradients_flow_through_the_live_model_after_a_loan(live: PreTrainedModel) -> None:
    frozen = FrozenModel(live)
    with torch.inference_mode(), frozen.lent():
        pass
    live(input_ids=IDS_BT).logits.sum().backward()
    assert all(weight.grad is not None for weight in live.parameters() if weight.requires_grad)


def test_an_adapted_model_is_frozen_at_the_cost_of_its_adapter(live: PreTrainedModel, tmp_path: Path) -> None:
    FrozenModel(live).save(tmp_path / "frozen.safetensors")
    trained = sum(weight.numel() for weight in live.parameters() if weight.requires_grad)
    assert (tmp_path / "frozen.safetensors").stat().st_size < 4 * trained + 6000
    with FrozenModel(live).lent() as still:
        assert (still is live) == hasattr(live, "peft_config")


def test_what_was_saved_is_taken_up_by_a_model_that_has_moved_on(live: PreTrainedModel, tmp_path: Path) -> None:
    file, frozen = tmp_path / "anchors" / "iteration-0001.safetensors", FrozenModel(live)
    frozen.save(file)
    _train(live)
    moved, said = FrozenModel(live), _logits(live)
    moved.load(file)
    assert torch.equal(_frozen_logits(moved), _frozen_logits(frozen))
    assert torch.equal(_logits(live), said)


def test_a_model_frozen_in_bfloat16_is_saved_and_taken_up_in_it(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    frozen = FrozenModel(tiny_model, torch.bfloat16)
    frozen.save(tmp_path / "frozen.safetensors")
    _train(tiny_model)
    moved = FrozenModel(tiny_model, torch.bfloat16)
    moved.load(tmp_path / "frozen.safetensors")
    assert torch.equal(_frozen_logits(moved), _frozen_logits(frozen))


def test_another_dtype_is_for_the_copy_alone(tiny_model: LlamaForCausalLM) -> None:
    said = _logits(tiny_model)
    frozen = FrozenModel(tiny_model, torch.bfloat16)
    assert {weight.dtype for weight in tiny_model.parameters()} == {torch.float32}
    assert _frozen_logits(frozen).dtype == frozen.embeddings_VD.dtype == torch.bfloat16
    torch.testing.assert_close(_frozen_logits(frozen).float(), said, atol=0.15, rtol=0.05)
    assert torch.equal(_logits(tiny_model), said)


def test_a_copy_in_bfloat16_keeps_its_positions_exact(tiny_model: LlamaForCausalLM) -> None:
    """1 / 10000^(k/d) is no number of bfloat16: rounded, every rotary angle would be a little off."""
    exact = tiny_model.model.rotary_emb.inv_freq.clone()
    assert not torch.equal(exact.bfloat16().float(), exact)
    with FrozenModel(tiny_model, torch.bfloat16).lent() as still:
        assert torch.equal(still.model.rotary_emb.inv_freq, exact)
        assert torch.equal(still.model.rotary_emb.original_inv_freq, exact)
    assert torch.equal(tiny_model.model.rotary_emb.inv_freq, exact)


def test_embeddings_are_those_of_the_frozen_model_without_a_copy(live: PreTrainedModel) -> None:
    frozen = FrozenModel(live)
    with frozen.lent() as still:
        weight = still.get_input_embeddings().weight
        assert frozen.embeddings_VD.data_ptr() == weight.data_ptr()
        assert not frozen.embeddings_VD.requires_grad


# ---- the wrapper of accelerate ------------------------------------------------------------------------------------------


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """What a trainer's accelerator does to a model for mixed precision."""

    def prepare(model: PreTrainedModel) -> PreTrainedModel:
        args = TrainingArguments(output_dir=str(tmp_path), bf16=True, use_cpu=True, report_to="none")
        return Trainer(model, args).accelerator.prepare_model(model, evaluation_mode=True)

    return prepare


def test_a_copy_of_a_prepared_model_does_not_go_on_calling_the_original(
    tiny_model: LlamaForCausalLM, prepare: Prepare
) -> None:
    exact = _logits(tiny_model)
    assert prepare(tiny_model) is tiny_model
    mixed = _logits(tiny_model)
    assert not torch.equal(mixed, exact)
    frozen = FrozenModel(tiny_model)
    _train(tiny_model)
    assert torch.equal(_frozen_logits(frozen), exact)


def test_unhooking_leaves_the_prepared_model_prepared(live: PreTrainedModel, prepare: Prepare) -> None:
    exact = _logits(live)
    prepared = prepare(live)
    mixed = _logits(prepared)
    bare = unhooked(prepared)
    assert torch.equal(_logits(bare), exact)
    assert torch.equal(_logits(prepared), mixed) and not torch.equal(mixed, exact)
    assert all(one is other for one, other in zip(bare.parameters(), prepared.parameters(), strict=True))
    assert "forward" not in bare.__dict__ and "_original_forward" not in bare.__dict__


def test_there_is_nothing_to_unhook_of_a_plain_model(live: PreTrainedModel) -> None:
    assert unhooked(live) is live


def test_an_unhooked_model_with_an_adapter_lends_the_adapter_it_had(
    tiny_model: LlamaForCausalLM, prepare: Prepare
) -> None:
    model = add_adapter(tiny_model, peft_config(LoraSection(r=2)))
    _train(model)
    before = _logits(model)
    frozen = FrozenModel(unhooked(prepare(model)))
    _train(model)
    after = _logits(model)
    assert torch.equal(_frozen_logits(frozen), before)
    assert torch.equal(_logits(model), after)


# ---- passes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_states_are_what_the_head_reads(live: PreTrainedModel, dtype: torch.dtype) -> None:
    with FrozenModel(live, dtype).lent() as still:
        hidden_BTD = hidden_states(still, IDS_BT, MASK_BT)
        logits_BTV = next_token_logits(still, IDS_BT, MASK_BT)
        assert hidden_BTD.shape == (2, 6, 16)
        torch.testing.assert_close(_head(still, hidden_BTD), logits_BTV)
        assert torch.equal(logits_BTV[REAL_BT], _logits(still))


@pytest.mark.parametrize(("features", "logits"), [(True, False), (True, True), (False, True)])
def test_a_frozen_pass_gives_what_is_asked_for_and_nothing_else(
    live: PreTrainedModel, features: bool, logits: bool
) -> None:
    frozen = FrozenModel(live)
    with frozen.lent() as still:
        expected_BTD, expected_BTV = hidden_states(still, IDS_BT, MASK_BT), next_token_logits(still, IDS_BT, MASK_BT)
    _train(live)
    hidden_BTD, logits_BTV = frozen_pass(frozen, IDS_BT, MASK_BT, features, logits=logits)
    assert (hidden_BTD is not None, logits_BTV is not None) == (features, logits)
    for given, expected in ((hidden_BTD, expected_BTD), (logits_BTV, expected_BTV)):
        if given is not None:
            torch.testing.assert_close(given[REAL_BT], expected[REAL_BT])
            assert not given.requires_grad


@pytest.mark.parametrize("instruction", [{"avx512_bf16": True}, {"amx_bf16": True}, {"avx512_f": True}, {}])
def test_bfloat16_is_fast_only_where_the_processor_multiplies_it(
    instruction: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instruction)
    has_it = any(re.search("bf16", name) for name in instruction)
    assert fast_dtype(torch.device("cpu")) == (torch.bfloat16 if has_it else torch.float32)
    assert fast_dtype(torch.device("meta")) == torch.float32
