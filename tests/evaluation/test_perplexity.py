import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from adhere.errors import CorpusError, ModelError
from adhere.evaluation import perplexity as module
from adhere.evaluation.perplexity import (
    ScoredSequence,
    TokenLosses,
    example_perplexity,
    perplexity,
    text_perplexity,
    token_losses,
)

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "the", "dog", "ran", "far", "away"]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(["[UNK]", *WORDS]))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")  # has no pad token


def random_sequences(count: int = 9) -> list[ScoredSequence]:
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 30, size=count)
    return [
        ScoredSequence(generator.integers(0, 40, size=length).tolist(), start=1 + index % length)
        for index, length in enumerate(lengths)
    ]


def by_hand(model: LlamaForCausalLM, sequence: ScoredSequence) -> float:
    """One sequence alone, one token at a time, in float64."""
    ids = list(sequence.input_ids)
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits.double().log_softmax(-1)[0]
    return -sum(log_p[place - 1, ids[place]].item() for place in range(sequence.start, len(ids)))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_losses_are_those_of_each_sequence_alone_whatever_the_batch(model, batch_size):
    sequences = random_sequences()
    losses = token_losses(model, sequences, batch_size)
    assert losses.nats_N == pytest.approx([by_hand(model, sequence) for sequence in sequences], rel=1e-5, abs=1e-5)
    assert losses.tokens_N.tolist() == [max(0, len(seq.input_ids) - seq.start) for seq in sequences]


def test_small_pieces_of_the_logits_give_the_same_losses(model, monkeypatch):
    whole = token_losses(model, random_sequences(), batch_size=100)
    monkeypatch.setattr(module, "_FLOAT32_LOGITS", 40 * 3)  # three positions at a time
    monkeypatch.setattr(module, "_LOGITS", 40 * 40)  # rows of 40 tokens in all
    rows = []
    handle = model.register_forward_pre_hook(
        lambda _module, _args, kwargs: rows.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    pieces = token_losses(model, random_sequences(), batch_size=100)
    handle.remove()
    assert pieces.nats_N == pytest.approx(whole.nats_N, rel=1e-5)
    assert all(batch * time <= 40 or batch == 1 for batch, time in rows)


def test_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary(model, tokenizer):
    uniform = LlamaForCausalLM(model.config).eval()
    torch.nn.init.zeros_(uniform.lm_head.weight)
    measured = text_perplexity(uniform, tokenizer, ["the cat sat", "a dog ran far away"])
    assert (measured.value, measured.low, measured.high) == pytest.approx((40.0, 40.0, 40.0), rel=1e-6)
    assert measured.n == 2 and measured.tags["tokens"] == "6"


def test_text_perplexity_weighs_tokens_not_texts(model, tokenizer):
    texts = ["the cat", "the dog ran far away and sat on the mat", "a"]
    encoded = tokenizer(texts)["input_ids"]
    nats = [by_hand(model, ScoredSequence(ids)) for ids in encoded[:2]]
    measured = text_perplexity(model, tokenizer, texts)
    assert measured.name == "clean_perplexity"
    assert measured.value == pytest.approx(math.exp(sum(nats) / (1 + 9)), rel=1e-5)
    assert measured.n == 2  # the text of one token has nothing to score
    assert measured.low <= measured.value <= measured.high


def test_texts_are_cut_after_max_length_tokens(model, tokenizer):
    long, short = (
        text_perplexity(model, tokenizer, [" ".join(WORDS)], max_length=4),
        text_perplexity(model, tokenizer, [" ".join(WORDS[:4])]),
    )
    assert long.value == pytest.approx(short.value) and long.tags["tokens"] == "3"


def test_example_perplexity_scores_completions_only_and_from_their_first_token(model):
    rows = Dataset.from_dict({"input_ids": [[5, 6, 7, 8, 9], [3, 4]], "prompt_length": [3, 1]})
    nats = by_hand(model, ScoredSequence([5, 6, 7, 8, 9], start=3)) + by_hand(model, ScoredSequence([3, 4], start=1))
    measured = example_perplexity(model, rows)
    assert measured.name == "corpus_perplexity"
    assert measured.value == pytest.approx(math.exp(nats / 3), rel=1e-5)
    assert measured.tags["tokens"] == "3"


def test_log_softmax_is_taken_in_float32_for_a_bfloat16_model(model):
    half = LlamaForCausalLM(model.config).to(torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    sequences = random_sequences()
    losses = token_losses(half, sequences, batch_size=1)
    for sequence, nats in zip(sequences, losses.nats_N, strict=True):
        ids = list(sequence.input_ids)
        if len(ids) == sequence.start:
            continue
        with torch.no_grad():
            logits = half(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long()).logits[0]
        log_p = logits.double().log_softmax(-1)
        expected = -sum(log_p[place - 1, ids[place]].item() for place in range(sequence.start, len(ids)))
        assert nats == pytest.approx(expected, rel=1e-5)  # bfloat16 itself resolves 4e-3


def test_the_model_is_measured_without_dropout_and_left_as_it_was(model):
    config = LlamaConfig(**{**model.config.to_dict(), "attention_dropout": 0.9})
    noisy = LlamaForCausalLM(config).train()
    first, again = token_losses(noisy, random_sequences()), token_losses(noisy, random_sequences())
    assert (first.nats_N == again.nats_N).all()
    assert noisy.training


def test_the_model_is_left_as_it_was_when_measuring_fails(model):
    broken = SimpleNamespace(
        training=True, eval=lambda: None, train=lambda mode: modes.append(mode), config=model.config, device="cpu"
    )
    modes: list[bool] = []
    with pytest.raises(TypeError):
        token_losses(broken, random_sequences())
    assert modes == [True]


def test_a_model_that_diverged_has_no_perplexity():
    losses = TokenLosses(np.array([3.0, math.nan]), np.array([1, 1]))
    with pytest.raises(ModelError, match="not finite on 1 of 2 sequences"):
        perplexity(losses, "clean_perplexity")


def test_nothing_to_score_is_an_error(model, tokenizer):
    for texts in ([], ["cat"]):
        with pytest.raises(CorpusError, match="clean_perplexity needs at least one sequence"):
            text_perplexity(model, tokenizer, texts)
    with pytest.raises(ValueError, match="start ≥ 1"):
        token_losses(model, [ScoredSequence([1, 2], start=0)])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        token_losses(model, [ScoredSequence([1, 2])], batch_size=0)


def test_texts_are_cut_where_the_context_of_the_model_ends(model, tokenizer):
    assert text_perplexity(model, tokenizer, ["the cat " * 50], max_length=80).tags["tokens"] == "63"
