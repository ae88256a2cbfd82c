"""The policy's own outputs as rows of a training batch."""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerFast

from adhere.data.collation import ConstrainedCollator
from adhere.guidance.constraint import Constraint
from adhere.oracles.rules import RegexOracle
from adhere.records import LabelledSample, Sample, Verdict
from adhere.training.sample_rows import SampleRows, join

OUTPUTS = [((1, 2), (3, 4, 31), 0.0), ((5,), (6,), -0.5), ((7, 8, 9), (1, 2, 3, 4), 0.25), ((2,), (), 0.0)]

VERDICTS = [Verdict(0.0, (1.0, 1.0, 0.0, 0.0)), Verdict(1.0), Verdict(0.0), Verdict(1.0)]
CONSTRAINT = Constraint(RegexOracle("a"), name="c")


def _samples() -> list[LabelledSample]:
    return [
        LabelledSample(Sample(i, 0, "p", "o", prompt, output, True, -1.0, importance), {"c": VERDICTS[i]})
        for i, (prompt, output, importance) in enumerate(OUTPUTS)
    ]


def test_a_sample_is_held_at_its_output_and_learned_nowhere(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    batch = SampleRows(_samples(), [CONSTRAINT], tiny_tokenizer).batch(range(10), seed=0, number=0)
    assert len(batch["row"]) == 3  # an output without tokens has nothing to hold
    assert (batch["labels"] == -100).all() and (batch["row"] == -1).all()
    known = {prompt + output: (len(prompt), importance) for prompt, output, importance in OUTPUTS}
    for b in range(3):
        tokens = tuple(batch["input_ids"][b][batch["attention_mask"][b].bool()].tolist())
        prompt_length, importance = known.pop(tokens)
        expected = [prompt_length <= t < len(tokens) for t in range(batch["input_ids"].shape[1])]
        assert batch["output_mask"][b].tolist() == expected
        assert float(batch["log_importance"][b]) == importance
    # The oracle said where the first one violates; of the third it said only that it does.
    at = {tuple(ids[: len(OUTPUTS[0][0])].tolist()): b for b, ids in enumerate(batch["input_ids"])}
    assert sorted(batch["violates_at"].flatten().tolist()) == [-1, -1, 1]
    assert float(batch["score"][at[OUTPUTS[0][0]]]) == 0.0 and int(batch["violates_at"][at[OUTPUTS[0][0]]]) == 1


def test_what_is_drawn_depends_on_seed_and_number_alone(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = SampleRows(_samples(), [CONSTRAINT], tiny_tokenizer)

    def drawn(seed: int, number: int) -> list[list[int]]:
        return rows.batch(range(2), seed, number)["input_ids"].tolist()

    before = torch.random.get_rng_state()
    first = drawn(0, 0)
    assert len(first) == 2 and drawn(0, 0) == first
    assert any(drawn(0, number) != first for number in range(1, 5))
    assert any(drawn(seed, 0) != first for seed in range(1, 5))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_two_batches_are_joined_at_the_longer_ones_width(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    collate = ConstrainedCollator(tiny_tokenizer)
    corpus = collate([{"input_ids": [1, 2], "prompt_length": 1, "learn_prompt": False, "row": 4}])
    corpus |= {"log_importance": torch.zeros(1), "violates_at": torch.tensor([[5]]), "score": torch.tensor([[0.5]])}
    samples = SampleRows(_samples(), [CONSTRAINT], tiny_tokenizer).batch(range(3), 0, 0)
    for first, second in ((corpus, samples), (samples, corpus)):
        joined = join(first, second, pad_token=9)
        width = samples["input_ids"].shape[1]
        assert all(len(part) == 4 for part in joined.values())
        row = joined["row"].tolist().index(4)
        assert joined["input_ids"][row].tolist() == [1, 2] + [9] * (width - 2)
        assert joined["attention_mask"][row].tolist() == [1, 1] + [0] * (width - 2)
        assert joined["labels"][row].tolist() == [-100, 2] + [-100] * (width - 2)
        assert joined["output_mask"][row].tolist() == [False, True] + [False] * (width - 2)
        others = [b for b in range(4) if b != row]
        assert torch.equal(joined["input_ids"][others], samples["input_ids"])
        assert torch.equal(joined["log_importance"][others], samples["log_importance"])


def test_processes_share_the_samples_of_a_batch(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = SampleRows(_samples(), [CONSTRAINT], tiny_tokenizer)
    whole = rows.batch(range(4), seed=1, number=2)["input_ids"].tolist()
    first, second = (rows.batch(places, seed=1, number=2)["input_ids"].tolist() for places in ([0, 1], [2, 3]))
    assert _without_padding(first + second) == _without_padding(whole)
    assert rows.batch([-1, 99], seed=1, number=2) == {}  # rows that only fill up, and more of them than samples


def _without_padding(rows: list[list[int]]) -> list[list[int]]:
    return [[token for token in row if token != 31] for row in rows]
