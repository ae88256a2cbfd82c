"""One model measured: by the constraint's oracle, by a judge that nothing was trained against, and by what it has kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.errors import CorpusError, OracleError, RecipeError, RunFolderError
from adhere.evaluation.evaluate import evaluate_model, inference_model, losses_of
from adhere.evaluation.evaluation_files import evaluation_path, read_evaluation, write_evaluation
from adhere.evaluation.perplexity import perplexity
from adhere.guidance.constraint import Constraint
from adhere.models.frozen import fast_dtype
from adhere.oracles.base import Oracle
from adhere.records import EvaluationResult, Prompt
from adhere.sampling.sampler import SamplingConfig

WORDS = ("a", "b", "c", "d")
PROMPTS = [Prompt(0, "a b"), Prompt(3, "c"), Prompt(7, "d d d")]


class Lacks(Oracle):
    """Satisfied by outputs without a word."""

    def __init__(self, name: str, word: str) -> None:
        self.name, self.version, self._word = name, "1", word

    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        return [float(self._word not in output.split()) for output in outputs]


class Silent(Lacks):
    def score(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[float | None]:
        return [None] * len(outputs)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<eos>": 0, **{word: i for i, word in enumerate(WORDS, start=1)}, "<unk>": 5}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>", pad_token="<eos>")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(vocab_size=6, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                        num_key_value_heads=2, max_position_embeddings=32, eos_token_id=0, bos_token_id=None)
        )  # fmt: skip


def _heldout() -> Dataset:
    return Dataset.from_list(
        [{"input_ids": [1, 2, 3, 0], "prompt_length": 2}, {"input_ids": [4, 4, 0], "prompt_length": 1}]
    )


@pytest.fixture
def evaluate(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Evaluate:
    return Evaluate(model, tokenizer)


class Evaluate:
    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.told: list[tuple[str, int, int]] = []

    def __call__(
        self,
        *oracles: Oracle,
        judges: dict[str, Oracle] | None = None,
        prompts: Sequence[Prompt] = PROMPTS,
        n: int = 4,
        k: int | None = None,
        texts: Sequence[str] = ("a b c d", "b b"),
        heldout: Dataset | None = None,
        name: str = "before",
        seed: int = 1,
    ) -> EvaluationResult:
        constraints = [Constraint(oracle) for oracle in oracles or (Lacks("no_b", "b"),)]
        return evaluate_model(
            name, self.model, self.tokenizer, prompts, constraints, judges or {}, texts, heldout or _heldout(),
            SamplingConfig(max_new_tokens=6, batch_size=5), n, seed, k,
            progress=lambda stage, done, total, note: self.told.append((stage, done, total)),
        )  # fmt: skip


def test_the_violation_rate_is_that_of_the_completions(evaluate: Evaluate) -> None:
    result = evaluate()
    assert len(result.completions) == 12
    violating = sum("b" in labelled.sample.output.split() for labelled in result.completions)
    assert 0 < violating < 12
    assert result["violation_rate"].value == pytest.approx(violating / 12)
    assert "constraint" not in result["violation_rate"].tags
    assert {labelled.sample.prompt_index for labelled in result.completions} == {0, 3, 7}


def test_what_is_measured_has_the_names_that_tables_know(evaluate: Evaluate) -> None:
    result = evaluate(judges={"second": Lacks("x", "c")})
    assert [m.name for m in result.measurements] == [
        "violation_rate", "emt", "toxicity_probability", "toxicity_fraction", "judge_violation_rate",
        "clean_perplexity", "corpus_perplexity", "distinct_2", "repetition", "looping", "mean_length", "empty_rate",
    ]  # fmt: skip
    assert result["emt"].tags["k"] == "4"
    assert evaluate(k=2)["emt"].tags["k"] == "2"


def test_a_judge_is_told_apart_by_its_name_and_judges_the_same_completions(evaluate: Evaluate) -> None:
    result = evaluate(judges={"second": Lacks("x", "c")})
    violating = sum("c" in labelled.sample.output.split() for labelled in result.completions)
    assert result["judge_violation_rate"].value == pytest.approx(violating / 12)
    assert result["judge_violation_rate"].tags["judge"] == "second"
    assert all(set(labelled.verdicts) == {"no_b", "second"} for labelled in result.completions)


def test_several_constraints_are_told_apart_by_a_tag(evaluate: Evaluate) -> None:
    result = evaluate(Lacks("no_b", "b"), Lacks("no_c", "c"))
    rates = {m.tags["constraint"]: m.value for m in result.measurements if m.name == "violation_rate"}
    for name, word in (("no_b", "b"), ("no_c", "c")):
        assert rates[name] == pytest.approx(sum(word in c.sample.output.split() for c in result.completions) / 12)


def test_the_same_seed_draws_the_same_and_another_seed_does_not(evaluate: Evaluate) -> None:
    outputs = [[c.sample.output_ids for c in evaluate(seed=seed).completions] for seed in (1, 1, 2)]
    assert outputs[0] == outputs[1] != outputs[2]


def test_perplexities_are_those_of_the_kept_losses_and_say_their_dtype(evaluate: Evaluate) -> None:
    result = evaluate()
    dtype = str(fast_dtype(torch.device("cpu"))).removeprefix("torch.")
    for name, tokens in (("clean_perplexity", [3, 1]), ("corpus_perplexity", [2, 2])):
        losses = losses_of(result, name)
        assert losses.tokens_N.tolist() == tokens
        assert result[name].value == perplexity(losses, name).value
        assert result[name].tags["dtype"] == dtype


def test_perplexities_without_texts_are_left_out(evaluate: Evaluate) -> None:
    result = evaluate(texts=(), heldout=Dataset.from_dict({"input_ids": [], "prompt_length": []}))
    with pytest.raises(KeyError, match="'clean_perplexity' was not measured"):
        _ = result["clean_perplexity"]
    assert set(evaluate(texts=()).losses) == {"corpus_perplexity"}


def test_the_model_is_as_it_was_afterwards(model: LlamaForCausalLM, evaluate: Evaluate) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.train()
    evaluate()
    assert model.training
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_model_in_the_fast_dtype_is_not_copied(model: LlamaForCausalLM) -> None:
    with inference_model(model) as still:
        assert still.dtype == fast_dtype(model.device)
    with inference_model(still) as again:
        assert again is still


def test_every_part_tells_its_progress_to_the_end(evaluate: Evaluate) -> None:
    evaluate(judges={"second": Lacks("x", "c")})
    ends = {stage: (done, total) for stage, done, total in evaluate.told}
    assert ends == {"sampling before": (12, 12), "judging before": (24, 24), "perplexity before": (4, 4)}


def test_what_cannot_be_measured_is_named(evaluate: Evaluate) -> None:
    with pytest.raises(CorpusError, match="no held-out prompts"):
        evaluate(prompts=[])
    with pytest.raises(RecipeError, match="both called 'no_b'"):
        evaluate(judges={"no_b": Lacks("x", "c")})
    with pytest.raises(OracleError, match="no verdict on any"):
        evaluate(Silent("silent", "b"))
    with pytest.raises(RecipeError, match="k = 5"):
        evaluate(k=5)


def test_an_evaluation_is_read_back_as_it_was_written(evaluate: Evaluate, tmp_path: Path) -> None:
    result = evaluate(Lacks("no_b", "b"), Lacks("no_c", "c"), judges={"second": Lacks("x", "d")})
    assert write_evaluation(tmp_path, result) == evaluation_path(tmp_path, "before")
    again = read_evaluation(tmp_path, "before")
    assert again == result


def test_a_missing_or_damaged_evaluation_is_named(evaluate: Evaluate, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="missing; evaluate before again"):
        read_evaluation(tmp_path, "before")
    path = write_evaluation(tmp_path, evaluate())
    path.write_text(path.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    with pytest.raises(RunFolderError, match="damaged"):
        read_evaluation(tmp_path, "before")
