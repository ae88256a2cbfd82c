"""A conversation to what the assistant should write, turn by turn, by the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from adhere.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]


def checked_messages(place: str, value: object) -> list[Message]:
    """The messages of a conversation, each with `role` and `content`.

    Raises:
        CorpusError: anything else than a list of messages with two strings each; `place` begins the message.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise CorpusError(f"{place}: `messages` must be a list of messages, not empty, got {_quoted(value)}")
    messages = []
    for number, message in enumerate(value, start=1):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise CorpusError(
                f"{place}, message {number}: must be an object with the strings `role` and `content`, got "
                f"{_quoted(message)}"
            )
        messages.append({"role": role, "content": content})
    return messages


def assistant_turns(
    place: str, messages: list[Message], tokenizer: PreTrainedTokenizerBase | None
) -> list[tuple[str, str]]:
    """(prompt, completion) of every assistant turn that says something.

    The prompt is the history as the chat template renders it, with the opening of an assistant turn; the completion is
    what the template then writes for the turn, its end of turn included.

    Raises:
        CorpusError: no template, a conversation that it refuses, or a template whose rendering doesn't extend: with the
            turn it doesn't begin with what it was before.
    """
    if tokenizer is None or tokenizer.chat_template is None:
        raise CorpusError(
            f"{place}: `messages` need a tokenizer with a chat template, and there is none: choose an "
            "instruction-tuned model, or give the corpus as prompt and completion"
        )
    return [
        _turn(place, messages, turn, tokenizer)
        for turn, message in enumerate(messages)
        if message["role"] == "assistant" and message["content"].strip()
    ]


def _turn(place: str, messages: list[Message], turn: int, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    if turn == 0:
        raise CorpusError(f"{place}: the conversation begins with the assistant; a user or system message goes first")
    try:
        prompt = tokenizer.apply_chat_template(messages[:turn], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages[: turn + 1], tokenize=False)
    except Exception as error:  # a template is a program of the model's author: it may raise anything
        raise CorpusError(f"{place}: the chat template refuses this conversation: {error}") from error
    if not str(whole).startswith(str(prompt)):
        raise CorpusError(
            f"{place}, message {turn + 1}: the chat template doesn't extend: with this assistant turn the "
            "conversation no longer begins as it did before, so what the model should write cannot be told; choose a "
            "tokenizer whose "
            "template renders the same history whatever follows, or give the corpus as prompt and completion"
        )
    return str(prompt), str(whole)[len(str(prompt)) :]


def _quoted(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
