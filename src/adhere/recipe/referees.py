"""Referees as they are named: a model's folder or hub id, or NAME@URL for a chat endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adhere.errors import RecipeError
from adhere.evaluation.chat_referee import ChatReferee
from adhere.evaluation.referee import LocalReferee, Referee
from adhere.models.policy import ModelConfig, locate
from adhere.recipe.trained import load_model


def check_referees(given: Sequence[str]) -> None:
    """Make sure that referees are there, without loading any: an endpoint is asked one question.

    Raises:
        RecipeError: the same name twice, or no address after the @. ModelError: no such folder, or no model in it.
        OracleError: an endpoint gives no answer, or refuses.
    """
    for each in given:
        name, at, url = _split(each)
        if [_name(other) for other in given].count(_name(each)) > 1:
            raise RecipeError(f"two referees are called {_name(each)!r}; tables could not tell them apart")
        if at:
            ChatReferee(name, url).check()
        else:
            locate(ModelConfig(path=each))


def load_referees(given: Sequence[str]) -> list[Referee]:
    """Referees ready to be asked. Raises as `check_referees`, and ModelError where a model cannot be loaded."""
    found: list[Referee] = []
    for each in given:
        name, at, url = _split(each)
        if at:
            found.append(ChatReferee(name, url))
        else:
            policy = load_model(each)
            found.append(LocalReferee(policy.model, policy.tokenizer, _name(each)))
    return found


def _split(given: str) -> tuple[str, str, str]:
    """NAME@URL in parts; of a folder or a hub id all but the first are empty."""
    name, at, url = given.partition("@")
    if at and name and "://" in url:
        return name, at, url
    if at and not Path(given).exists():
        raise RecipeError(f"--referee {given!r}: after the @ stands an address such as https://api.openai.com/v1")
    return given, "", ""


def _name(given: str) -> str:
    name, at, _ = _split(given)
    return name if at else Path(given).name
