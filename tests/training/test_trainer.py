"""A `ConstrainedTrainer` from its arguments to its logs and files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from adhere.data.sample_store import SampleStore
from adhere.errors import GuidanceError, ModelError, RecipeError, RunFolderError
from adhere.guidance.constraint import Constraint
from adhere.models.frozen import hidden_states
from adhere.oracles.rules import LengthOracle, RegexOracle
from adhere.records import Prompt
from adhere.training.trainer import ConstrainedTrainer

MakeTrainer = Callable[..., ConstrainedTrainer]
CHAT = (
    "{% for m in messages %}{{ m['role'] }}. {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant. {% endif %}"
)


def _weights(trainer: ConstrainedTrainer) -> dict[str, torch.Tensor]:
    assert trainer.model is not None
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


def _moved(before: dict[str, torch.Tensor], trainer: ConstrainedTrainer) -> set[str]:
    return {name for name, weight in _weights(trainer).items() if not torch.equal(weight, before[name])}


@pytest.mark.parametrize("shape", ["text", "prompt and completion", "messages", "a dataset"])
def test_rows_of_every_shape_are_learned(
    make_trainer: MakeTrainer, corpus: list[dict[str, str]], tiny_tokenizer: PreTrainedTokenizerFast, shape: str
) -> None:
    rows: Any = corpus
    if shape == "text":
        rows = [{"text": row["prompt"] + row["completion"], "domain": "chat"} for row in corpus]
    elif shape == "messages":
        tiny_tokenizer.chat_template = CHAT
        rows = [
            {
                "messages": [
                    {"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": row["completion"]},
                ]
            }
            for row in corpus
        ]
    elif shape == "a dataset":
        rows = Dataset.from_list(corpus)
    trainer = make_trainer(train_dataset=rows, prompt_words=2, max_length=48, iterations=1, max_steps=2)
    before = _weights(trainer)
    trainer.train()
    assert trainer.state.global_step == 2
    assert "lm_head.weight" in _moved(before, trainer)
    if shape == "text":
        assert {prompt.text for prompt in trainer.prompts} == {row["prompt"] for row in corpus}
        assert {prompt.domain for prompt in trainer.prompts} == {"chat"}


def test_the_log_tells_of_both_losses_of_satisfaction_and_of_nado(make_trainer: MakeTrainer, no_z: Constraint) -> None:
    short = Constraint(LengthOracle(maximum=1), target=0.9, weight=1.5, name="short")
    trainer = make_trainer(constraints=[no_z, short], logging_steps=2, violating_rows="learn")
    trainer.train()
    history = trainer.state.log_history
    steps = [line for line in history if "loss" in line]
    assert [line["step"] for line in steps] == [2, 4]
    for line in steps:
        assert line["kl"] == pytest.approx(line["kl/no z"] + line["kl/short"])
        assert line["kl/no z"] > 0 and line["tokens_per_second"] > 0
        assert line["loss"] == pytest.approx(line["corpus_loss"] + line["regulariser"], rel=1e-4)
    begun = [line for line in history if "iteration" in line]
    assert [(line["iteration"], line["step"]) for line in begun] == [(0, 0), (1, 2)]
    for line in begun:
        labelled = SampleStore(trainer.run_folder).labelled(int(line["iteration"]))
        for name in ("no z", "short"):
            share = sum(item.verdicts[name].score == 1 for item in labelled) / len(labelled)
            assert line[f"satisfaction/{name}"] == pytest.approx(share)
            assert line[f"satisfaction/{name}/low"] <= share <= line[f"satisfaction/{name}/high"]
            assert {f"nado/{name}/{key}" for key in ("auc", "calibration_error", "saturation")} <= line.keys()
    events = [json.loads(line) for line in (trainer.run_folder / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events if event["event"] == "fitted"] == ["fitted"] * 4
    assert {event["step"] for event in events if event["event"] == "fitted"} == {0, 2}
    trained = [event for event in events if event.get("part") == "training"]
    assert [(event["iteration"], event["step"]) for event in trained] == [(0, 2), (1, 4)]  # noted when it is over


@pytest.mark.usefixtures("telling_guidance")
@pytest.mark.parametrize("anchor", ["iteration", "reference"])
def test_another_anchor_trains_another_model(make_trainer: MakeTrainer, tmp_path: Path, anchor: str) -> None:
    """At the first step every anchor is the model itself; later they differ."""
    runs = {}
    for name in ("live", anchor):
        trainer = make_trainer(anchor=name, output_dir=str(tmp_path / name), violating_rows="learn")
        trainer.train()
        runs[name] = [line for line in trainer.state.log_history if "kl" in line]
        assert len({f"{weight.sum()}" for weight in _weights(trainer).values()}) > 1
    assert runs[anchor][0]["kl"] == pytest.approx(runs["live"][0]["kl"], rel=0.05)
    assert runs[anchor][1]["kl"] > 1.5 * runs["live"][1]["kl"]
    assert (tmp_path / "iteration" / "anchors" / "iteration-0001.safetensors").exists() == (anchor == "iteration")


@pytest.mark.parametrize("positions", ["corpus", "samples", "both"])
def test_the_policy_is_held_where_it_was_asked_to_be(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, positions: str
) -> None:
    trainer = make_trainer(positions=positions, max_steps=2, iterations=1, violating_rows="learn")
    seen: list[dict[str, torch.Tensor]] = []
    complete = trainer._complete

    def watched(batch: Any, number: int) -> dict[str, torch.Tensor]:
        seen.append(complete(batch, number))
        return seen[-1]

    monkeypatch.setattr(trainer, "_complete", watched)
    trainer.train()
    outputs = {item.sample.prompt_ids + item.sample.output_ids for item in SampleStore(trainer.run_folder).labelled(0)}
    for batch in seen:
        assert batch["sampled"].tolist() == [False] * 3 + [True] * (0 if positions == "corpus" else 3)
        assert bool(batch["held"][:3].any()) == (positions != "samples")
        assert batch["learned"][:3].any() and not batch["learned"][3:].any()
        for ids, mask, held in zip(batch["input_ids"][3:], batch["attention_mask"][3:], batch["held"][3:], strict=True):
            tokens = tuple(ids[mask.bool()].tolist())
            assert tokens in outputs
            assert held.nonzero().flatten()[-1] == len(tokens) - 2  # the position that predicts the last token
    if positions != "corpus":
        assert not torch.equal(seen[0]["input_ids"][3:], seen[1]["input_ids"][3:])


def test_samples_drawn_otherwise_than_from_the_policy_are_weighed(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """top-p samples are no samples of p (method.md §7): their importance comes to the loss."""
    trainer = make_trainer(
        positions="samples", max_steps=1, iterations=1, sampling={"max_new_tokens": 6, "batch_size": 4, "top_p": 0.5}
    )
    seen: list[dict[str, torch.Tensor]] = []
    complete = trainer._complete

    def watched(batch: Any, number: int) -> dict[str, torch.Tensor]:
        seen.append(complete(batch, number))
        return seen[-1]

    monkeypatch.setattr(trainer, "_complete", watched)
    trainer.train()
    importance = {
        item.sample.prompt_ids + item.sample.output_ids: item.sample.log_importance
        for item in SampleStore(trainer.run_folder).labelled(0)
    }
    (batch,) = seen
    assert batch["log_importance"][:3].tolist() == [0, 0, 0]
    for ids, mask, weight in list(
        zip(batch["input_ids"], batch["attention_mask"], batch["log_importance"], strict=True)
    )[3:]:
        assert float(weight) == pytest.approx(importance[tuple(ids[mask.bool()].tolist())], rel=1e-6)
        assert weight < -0.1


@pytest.mark.parametrize(("violating_rows", "learned"), [("learn", 12), ("tilt", 12), ("leave", 6)])
def test_rows_that_violate_are_learned_tilted_or_left_to_the_regulariser(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, violating_rows: str, learned: int
) -> None:
    trainer = make_trainer(violating_rows=violating_rows)
    seen: list[tuple[list[str], dict[str, torch.Tensor], float]] = []
    complete = trainer._complete

    def watched(batch: Any, number: int) -> dict[str, torch.Tensor]:
        done = complete(batch, number)
        seen.append((trainer.tokenizer.batch_decode(done["input_ids"]), done, int((batch["labels"] != -100).sum())))
        return done

    monkeypatch.setattr(trainer, "_complete", watched)
    trainer.train()
    count = 0
    for texts, batch, _ in seen:
        for text, tokens_T, held_T, tilted in zip(texts, batch["learned"], batch["held"], batch["tilted"], strict=True):
            count += bool(tokens_T.any())
            assert held_T.any()  # the regulariser sees every row
            assert bool(tokens_T.any()) == (violating_rows != "leave" or "z" not in text)
            assert bool(tilted) == (violating_rows == "tilt" and "z" in text)
    assert count == learned
    # What is left out counts among the tokens all the same, so that the others do not weigh more.
    assert trainer._counts[0] == seen[-1][2]


def test_an_adapter_is_trained_alone_and_the_reference_stays_the_model_without_it(
    make_trainer: MakeTrainer, tiny_model: LlamaForCausalLM
) -> None:
    base = copy.deepcopy(tiny_model)
    trainer = make_trainer(peft_config=LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    before = _weights(trainer)
    trainer.train()
    moved = _moved(before, trainer)
    assert moved and all("lora_" in name for name in moved)
    tokens_BT = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad(), trainer.reference.lent() as reference:
        told = hidden_states(reference, tokens_BT, torch.ones_like(tokens_BT))
        torch.testing.assert_close(told, hidden_states(base, tokens_BT, torch.ones_like(tokens_BT)))
    trained = hidden_states(trainer.model, tokens_BT, torch.ones_like(tokens_BT))  # type: ignore[arg-type]
    assert not torch.allclose(trained, told, atol=1e-3)
    assert _moved(before, trainer) == moved  # lending put the trained adapter back


def test_prompts_may_be_given(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(prompts=[Prompt(0, "only this")], iterations=1, max_steps=1)
    trainer.train()
    samples = SampleStore(trainer.run_folder).samples(0)
    assert {sample.prompt for sample in samples} == {"only this"}
    assert len({sample.output for sample in samples}) > 4


def test_prompts_of_the_corpus_are_cut_as_they_are_in_training(make_trainer: MakeTrainer) -> None:
    rows = [
        {"prompt": "far too long a prompt " * 4 + noun, "completion": end} for noun in "abc" for end in ("zz", "ok")
    ]
    trainer = make_trainer(train_dataset=rows, iterations=1, max_steps=1, max_prompt_length=10)
    assert all(len(prompt.text) == 10 for prompt in trainer.prompts)
    trainer.train()


def test_samples_and_labels_are_on_disk_before_the_iterations_first_step(make_trainer: MakeTrainer) -> None:
    found: dict[int, list[bool]] = {}

    class Looks(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            store = SampleStore(Path(args.output_dir))
            found[state.global_step] = [store.complete(kind, k) for k in (0, 1) for kind in ("samples", "labels")]
            if state.global_step == 2:  # and what was trained until then
                assert (Path(args.output_dir) / "checkpoint-2" / "trainer_state.json").exists()

    make_trainer(callbacks=[Looks()]).train()
    before, after = [True, True, False, False], [True] * 4
    assert found == {0: before, 1: before, 2: after, 3: after}


def test_a_trainer_that_is_told_no_number_of_iterations_counts_its_steps(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(iterations=None, max_steps=2)
    trainer.train()
    store = SampleStore(trainer.run_folder)
    assert trainer.starts() == [0] and store.complete("samples", 0) and not store.complete("samples", 1)
    trainer.state.max_steps = 900
    assert trainer.starts() == [0, 300, 600]


def test_more_iterations_than_steps_are_refused_before_anything_is_labelled(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(iterations=5, max_steps=4)
    with pytest.raises(RecipeError, match=r"between 1 and the number of training steps \(4\), got 5"):
        trainer.train()
    assert not (trainer.run_folder / "labels").exists()


@pytest.mark.parametrize("again", ["the same trainer", "another trainer"])
def test_a_folder_that_holds_a_run_is_not_trained_in_afresh(
    make_trainer: MakeTrainer, tmp_path: Path, again: str
) -> None:
    trainer = make_trainer()
    trainer.train()
    if again == "another trainer":
        trainer = make_trainer(learning_rate=1e-3)
    with pytest.raises(RunFolderError, match=r"holds a run already \(checkpoint-\d\): go on with it by train\(resume"):
        trainer.train()


def test_settings_that_cannot_be_carried_out_are_refused(
    make_trainer: MakeTrainer, no_z: Constraint, tiny_model: LlamaForCausalLM
) -> None:
    with pytest.raises(RecipeError, match="at least one constraint"):
        make_trainer(constraints=[])
    with pytest.raises(RecipeError, match="two constraints are called 'no z'"):
        make_trainer(constraints=[no_z, no_z])
    with pytest.raises(ModelError, match="tokenizer"):
        make_trainer(processing_class=None)


def test_an_oracle_that_tells_nothing_apart_is_refused_with_advice(make_trainer: MakeTrainer) -> None:
    with pytest.raises(
        GuidanceError, match=r"'never': every one of \d+ labelled outputs satisfies it.*guidance\.samples"
    ):
        make_trainer(constraints=[Constraint(RegexOracle("!{9}"), name="never")]).train()


def test_evaluation_batches_get_plain_cross_entropy(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    measured = trainer.evaluate(eval_dataset=trainer.train_dataset)
    assert measured["eval_loss"] == pytest.approx(_cross_entropy(trainer), rel=0.02)


def _cross_entropy(trainer: ConstrainedTrainer) -> float:
    batch = trainer.data_collator(list(trainer.train_dataset))  # type: ignore[arg-type]
    assert trainer.model is not None
    with torch.no_grad():
        logits_BTV = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"][:, 1:]
    return float(torch.nn.functional.cross_entropy(logits_BTV[:, :-1].transpose(1, 2), labels))
