"""Outputs side by side, and outputs token by token, ready to be laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adhere.oracles.base import violates
from adhere.report.masking import Piece, mask, mask_tokens, try_profane_words
from adhere.report.run_files import RunFiles, SampleLine, TokenLine
from adhere.report.tables import model_label, order_models

SHOWN, FAILURES, TOKEN_LINES = 10, 6, 12  # at most, but one output of each model and constraint
LONGEST = 1200  # characters of a prompt or output that are shown


@dataclass(frozen=True, slots=True)
class Badge:
    """A verdict: of the oracle trained against, or of a judge that was not."""

    label: str
    state: str  # "satisfied", "violated" or "unjudged"
    title: str


@dataclass(frozen=True, slots=True)
class OutputView:
    """One model's output."""

    model: str
    label: str
    pieces: list[Piece]
    cut: int  # characters left out at the end
    badges: list[Badge]


@dataclass(frozen=True, slots=True)
class PromptView:
    """One prompt and what each model made of it."""

    index: int
    pieces: list[Piece]
    outputs: list[OutputView]


@dataclass(frozen=True, slots=True)
class TokenView:
    """One token with R after it."""

    pieces: list[Piece]
    value: float


@dataclass(frozen=True, slots=True)
class TokenLineView:
    """One output, token by token."""

    label: str
    prompt: list[Piece]
    tokens: list[TokenView]


@dataclass(frozen=True, slots=True)
class SampleViews:
    """What the sections on samples and on tokens show."""

    spread: list[PromptView]  # prompts evenly apart
    failures: list[PromptView]  # prompts on which the constrained model violates, from the first on
    failed: int  # how many such prompts there are
    prompts: int
    tokens: list[TokenLineView]
    mask_note: str


def sample_views(run: RunFiles) -> SampleViews:
    """Choose, mask and pair the samples of a run: the first output of each model for the same prompt."""
    models = order_models(list(run.samples))
    by_prompt: dict[int, dict[str, SampleLine]] = {}
    for model in models:
        for line in run.samples[model]:
            if line.replicate == 0:
                by_prompt.setdefault(line.prompt_index, {})[model] = line
    indices = sorted(by_prompt)
    failing = [index for index in indices if _violates(by_prompt[index].get("constrained"))]
    spread = [indices[place * len(indices) // SHOWN] for place in range(SHOWN)] if len(indices) > SHOWN else indices
    shown = [line for index in {*spread, *failing[:FAILURES]} for line in by_prompt[index].values()]
    tokens = _some_of_each(run.tokens)
    texts = [text[:LONGEST] for line in shown if line.masked_words is None for text in (line.prompt, line.output)]
    texts += [text for line in tokens if line.masked_words is None for text in (line.prompt, "".join(line.tokens))]
    words, note = try_profane_words(texts)
    return SampleViews(
        spread=[_prompt_view(index, by_prompt[index], words) for index in spread],
        failures=[_prompt_view(index, by_prompt[index], words) for index in failing[:FAILURES]],
        failed=len(failing),
        prompts=len(indices),
        tokens=[_token_view(line, words) for line in tokens],
        mask_note=note,
    )


def _some_of_each(lines: Sequence[TokenLine]) -> list[TokenLine]:
    """The first few outputs of every model under every constraint."""
    groups: dict[tuple[str, str], list[TokenLine]] = {}
    for line in lines:
        groups.setdefault((line.model, line.constraint), []).append(line)
    each = max(1, TOKEN_LINES // max(1, len(groups)))
    return [line for group in groups.values() for line in group[:each]]


def _violates(line: SampleLine | None) -> bool:
    return line is not None and any(score is not None and violates(score) for score in line.verdicts.values())


def _prompt_view(index: int, lines: Mapping[str, SampleLine], words: frozenset[str]) -> PromptView:
    first = next(iter(lines.values()))
    outputs = [
        OutputView(
            model,
            model_label(model),
            mask(line.output[:LONGEST], words if line.masked_words is None else line.masked_words),
            max(0, len(line.output) - LONGEST),
            [*_badges(line.verdicts, ""), *_badges(line.judge, "second judge, ")],
        )
        for model, line in lines.items()
    ]
    hidden = words if first.masked_words is None else first.masked_words
    return PromptView(index, mask(first.prompt[:LONGEST], hidden), outputs)


def _badges(scores: Mapping[str, float | None], kind: str) -> list[Badge]:
    badges = []
    for name, score in scores.items():
        state = "unjudged" if score is None else "violated" if violates(score) else "satisfied"
        shown = "no verdict" if score is None else f"{state}, score {score:.2f}"
        badges.append(Badge(kind + name, state, f"{kind}{name}: {shown}"))
    return badges


def _token_view(line: TokenLine, words: frozenset[str]) -> TokenLineView:
    hidden: Sequence[str] | frozenset[str] = words if line.masked_words is None else line.masked_words
    masked = mask_tokens(line.tokens, hidden)
    tokens = [TokenView(pieces, value) for pieces, value in zip(masked, line.satisfaction, strict=True)]
    label = ", ".join(filter(None, (model_label(line.model), line.constraint)))
    return TokenLineView(label, mask(line.prompt, hidden), tokens)
