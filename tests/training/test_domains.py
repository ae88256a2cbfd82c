"""Domains in the trainer: what acts on which row and sample, over whole steps; what the log tells; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adhere.data.sample_store import SampleStore
from adhere.errors import RecipeError
from adhere.guidance.constraint import Constraint
from adhere.models.frozen import next_token_logits
from adhere.oracles.rules import LengthOracle
from adhere.records import Prompt
from adhere.training.domains import RowWeights
from adhere.training.loss import LossSums, loss_sums
from adhere.training.trainer import ConstrainedTrainer

MakeTrainer = Callable[..., ConstrainedTrainer]
Rows = list[dict[str, str]]

NOUNS = ("cat", "dog", "cow", "fox", "hen", "owl")
DOMAINS: dict[str, dict[str, Any]] = {
    "chat": {"loss_weight": 0.5, "constraints": {"no z": 3.0}, "reference_kl": 0.0},
    "news": {"loss_weight": 0.0, "constraints": {}, "reference_kl": 1.5},
}


@pytest.fixture
def mixed() -> Rows:
    """Twelve rows of three domains, of which the settings say nothing of the last; every other one violates."""
    rows = [(noun, end) for noun in NOUNS for end in ("zzz", "good")]
    return [
        {"prompt": f"the {noun} {end[0]}", "completion": f" is {end}{'!' * number}", "domain": ("chat", "news", "")[number % 3]}
        for number, (noun, end) in enumerate(rows)
    ]  # fmt: skip


@pytest.fixture
def constraints(no_z: Constraint) -> list[Constraint]:
    return [replace(no_z, weight=2.5), Constraint(LengthOracle(maximum=1), target=0.9, weight=1.5, name="short")]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], LossSums]]:
    """What the loss was given and gave, one micro-batch after the other."""
    found: list[tuple[dict[str, Any], LossSums]] = []

    def watched(logits: Tensor, batch: Any, *rest: Any, **keywords: Any) -> LossSums:
        sums = loss_sums(logits, batch, *rest, **keywords)
        found.append(({"batch": batch, "features": rest[2], **keywords}, sums))
        return sums

    monkeypatch.setattr("adhere.training.trainer.loss_sums", watched)
    return found


def test_every_row_gets_the_weights_of_its_domain_and_every_sample_those_of_its_prompt(
    make_trainer: MakeTrainer, constraints: list[Constraint], mixed: Rows, seen: list[Any]
) -> None:
    trainer = make_trainer(
        train_dataset=mixed, constraints=constraints, domains=DOMAINS, positions="both", max_steps=2, reference_kl=0.25
    )
    trainer.train()
    text_domain = {row["prompt"] + row["completion"]: row["domain"] or "default" for row in mixed}
    for iteration in (0, 1):
        for sample in SampleStore(trainer.run_folder).samples(iteration):
            text_domain[sample.prompt + sample.output] = sample.domain
    expected = {"chat": (0.5, 0.0, 3.0, None), "news": (0.0, 1.5, None, None), "default": (1.0, 0.25, 2.5, 1.5)}
    found = set()
    for given, _ in seen:
        rows: RowWeights = given["rows"]
        for b, text in enumerate(trainer.tokenizer.batch_decode(given["batch"].input_ids_BT, skip_special_tokens=True)):
            domain = text_domain[text]
            found.add((domain, bool(given["batch"].sampled_B[b])))
            corpus, reference, *multipliers = expected[domain]
            assert float(rows.corpus_B[b]) == corpus and float(rows.reference_B[b]) == reference
            for name, value in zip(("no z", "short"), multipliers, strict=True):
                assert bool(rows.acts_B[name][b]) == (value is not None)
                assert float(rows.multiplier_B[name][b]) == (value or 0.0)
    assert found == {(domain, sampled) for domain in expected for sampled in (False, True)}


def test_the_reference_is_read_where_a_row_is_held_to_it_and_is_the_model_before_training(
    make_trainer: MakeTrainer, mixed: Rows, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adhere.training.trainer.fast_dtype", lambda _: torch.float32)
    trainer = make_trainer(
        train_dataset=mixed,
        domains=DOMAINS,
        reference_kl=0.0,
        per_device_train_batch_size=1,
        max_steps=6,
        save_steps=99,
    )
    assert trainer.model is not None
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert all(given["reference_logits_BTV"] is None for given, _ in seen)  # its hidden states are enough
    read = [given["reference_head"] is not None for given, _ in seen]
    assert read == [bool((given["rows"].reference_B > 0).any()) for given, _ in seen] and set(read) == {True, False}
    trainer.model.load_state_dict(before, strict=False)
    for given, _ in seen:
        if given["reference_head"] is not None:
            batch = given["batch"]
            with torch.no_grad():
                expected = next_token_logits(trainer.model, batch.input_ids_BT, batch.attention_mask_BT)  # type: ignore[arg-type]
            told = given["features"] @ given["reference_head"].weight_VD.T
            where = batch.output_BT  # nobody reads them elsewhere
            torch.testing.assert_close(told[where], expected[where], atol=1e-5, rtol=1e-5)


def test_every_domain_without_a_reference_kl_of_its_own_has_that_of_the_run(
    make_trainer: MakeTrainer, mixed: Rows, seen: list[Any]
) -> None:
    domains = {"chat": {"reference_kl": 0.0}, "news": {"loss_weight": 2.0}}
    trainer = make_trainer(
        train_dataset=mixed, domains=domains, reference_kl=0.3, positions="corpus", max_steps=2, logging_steps=2
    )
    weights = trainer.domains.weights(trainer.domains.numbers(["chat", "news", "default"]), {})
    assert weights.reference_B.tolist() == pytest.approx([0.0, 0.3, 0.3]) and trainer.domains.keeps_some
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "loss" in line]
    held = sum(float(given["batch"].held_BT.sum()) for given, _ in seen) / 2
    told = [float(sums.reference_kl) for _, sums in seen if sums.reference_kl is not None]
    assert line["reference_kl"] == pytest.approx(sum(told) / 2 / held, rel=0.2)  # steps of nearly the same length
    assert line["reference_kl"] > 0


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan")])
def test_a_weight_of_the_reference_kl_that_is_none_is_refused(make_trainer: MakeTrainer, weight: float) -> None:
    with pytest.raises(RecipeError, match="reference_kl must be at least 0 and finite"):
        make_trainer(reference_kl=weight)


@pytest.mark.usefixtures("telling_guidance")
def test_batches_of_mixed_domains_teach_the_same_however_they_are_accumulated(
    make_trainer: MakeTrainer,
    constraints: list[Constraint],
    mixed: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("adhere.training.trainer.fast_dtype", lambda _: torch.float32)
    runs, logs = {}, {}
    for batches in (1, 3):
        trainer = make_trainer(
            train_dataset=mixed, constraints=constraints, domains=DOMAINS, violating_rows="learn", max_steps=4, iterations=1,
            optim="sgd", max_grad_norm=0.0, learning_rate=0.05, logging_steps=2, output_dir=str(tmp_path / str(batches)),
            per_device_train_batch_size=6 // batches, gradient_accumulation_steps=batches,
        )  # fmt: skip
        trainer.train()
        assert trainer.model is not None
        runs[batches] = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        lines = [line for line in trainer.state.log_history if "loss" in line]
        logs[batches] = [
            line[key] for line in lines for key in sorted(line) if key.startswith(("domain/", "kl", "loss"))
        ]
        assert any(line["domain/news/reference_kl"] > 1e-4 for line in lines)
    for name, weight in runs[1].items():
        torch.testing.assert_close(weight, runs[3][name], atol=1e-6, rtol=1e-5)
    assert logs[3] == pytest.approx(logs[1], rel=1e-4, abs=1e-6)


@pytest.mark.usefixtures("telling_guidance")
def test_the_log_tells_the_parts_of_every_domain_per_token_of_its_own(
    make_trainer: MakeTrainer, mixed: Rows, seen: list[Any]
) -> None:
    trainer = make_trainer(train_dataset=mixed, domains=DOMAINS, max_steps=4, logging_steps=4, iterations=1)
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "loss" in line]
    for name in ("chat", "default", "news"):
        parts = [sums.by_domain.by_name()[name] for _, sums in seen]
        total = {part: sum(each[part] for each in parts) for part in parts[0]}
        assert line[f"domain/{name}/corpus_loss"] == pytest.approx(total["corpus"] / total["learned"])
        assert line[f"domain/{name}/kl"] == pytest.approx(total["kl"] / total["held"])
        assert line[f"domain/{name}/reference_kl"] == pytest.approx(total["reference"] / total["held"])
    assert line["domain/news/kl"] == 0 < line["domain/chat/kl"]
    assert line["domain/chat/reference_kl"] == 0 < line["domain/news/reference_kl"]
    assert line["domain/news/corpus_loss"] > 0  # told, though it is not learned


def test_a_domain_held_to_the_reference_moves_less(make_trainer: MakeTrainer, mixed: Rows, tmp_path: Path) -> None:
    """What the regulariser is for: the same run with and without it, on the rows of the domain it is for."""
    moved = {}
    for kept in (0.0, 20.0):
        trainer = make_trainer(
            train_dataset=mixed, domains={"news": {"constraints": {}, "reference_kl": kept}}, max_steps=12, iterations=1,
            per_device_train_batch_size=6, logging_steps=12, save_steps=99, output_dir=str(tmp_path / str(kept)),
        )  # fmt: skip
        trainer.train()
        rows = [row for row in trainer.train_dataset if row["domain"] == "news"]  # type: ignore[union-attr]
        batch = trainer.data_collator(rows)  # type: ignore[arg-type]
        with torch.no_grad(), trainer.reference.lent() as reference:
            one, other = (
                next_token_logits(model, batch["input_ids"], batch["attention_mask"]).log_softmax(-1)  # type: ignore[arg-type]
                for model in (reference, trainer.model)
            )
        moved[kept] = float(((one.exp() * (one - other)).sum(-1) * batch["output_mask"]).sum())
    assert moved[20.0] < 0.3 * moved[0.0]


def test_a_row_violates_by_the_constraints_of_its_own_domain(
    make_trainer: MakeTrainer, constraints: list[Constraint]
) -> None:
    rows = [
        {"prompt": f"the {noun}", "completion": f" is {end}", "domain": domain}
        for noun, end, domain in (
            ("cat", "zzz", "chat"), ("cow", "zzz", "news"), ("fox", "so very good", "chat"), ("hen", "so very good", "code"),
        )
    ]  # fmt: skip
    trainer = make_trainer(
        train_dataset=rows, constraints=constraints, prompts=[Prompt(0, "the", "chat")],
        domains={"news": {"constraints": {"short": 1.0}}, "chat": {"constraints": {"no z": 1.0}}},
    )  # fmt: skip
    everywhere, by_domain = trainer.corpus_labels.violating(), trainer.corpus_labels.violating(trainer.domains.acts)
    texts = {row["row"]: row["completion"] + row["domain"] for row in trainer.train_dataset}  # type: ignore[union-attr]
    assert len(everywhere) == 4  # " is zzz" is two words, too
    assert {texts[row] for row in by_domain} == {" is zzzchat", " is zzznews", " is so very goodcode"}


def test_rows_without_a_domain_are_of_the_default_one_and_may_be_set_too(
    make_trainer: MakeTrainer, no_z: Constraint
) -> None:
    trainer = make_trainer(constraints=[replace(no_z, weight=2.5)], domains={"default": {"loss_weight": 0.25}})
    assert trainer.domains.names == ["default"]
    weights = trainer.domains.weights(trainer.domains.of_rows(torch.tensor([0, 5])), {"no z": 2.0})
    assert weights.corpus_B.tolist() == [0.25, 0.25]
    assert weights.multiplier_B["no z"].tolist() == [5.0, 5.0]  # an adaptive λ moves that of every domain


@pytest.mark.parametrize(
    ("domains", "said"),
    [
        (
            {"caht": {}},
            r"domains\.caht: no row and no prompt has this domain; did you mean chat\? There are: chat, default",
        ),
        (
            {"chat": {"constraints": {"noz": 1.0}}},
            r"domains\.chat\.constraints\.noz: no constraint is called so; did you",
        ),
        (
            {name: {"constraints": {}} for name in ("chat", "news", "default")},
            "constraint 'no z' acts in no domain: name it in one of",
        ),
    ],
)
def test_what_names_nothing_is_refused_at_once(
    make_trainer: MakeTrainer, mixed: Rows, domains: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        make_trainer(train_dataset=mixed, domains=domains)


def test_a_multiplier_that_is_found_needs_a_prompt_to_be_measured_on(
    make_trainer: MakeTrainer, mixed: Rows, no_z: Constraint
) -> None:
    found = Constraint(no_z.oracle, 0.9, name="no z", multiplier="dual")
    with pytest.raises(RecipeError, match=r"no prompt is of a domain it acts in \(chat\): there is nothing to measure"):
        make_trainer(
            train_dataset=mixed, constraints=[found], prompts=[Prompt(0, "the", "news")],
            domains={"news": {"constraints": {}}, "default": {"constraints": {}}},
        )  # fmt: skip
