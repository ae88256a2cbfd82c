"""Referees as they are named on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adhere.errors import ModelError, OracleError, RecipeError
from adhere.evaluation.chat_referee import ChatReferee
from adhere.evaluation.referee import LocalReferee
from adhere.recipe.referees import check_referees, load_referees


def test_a_folder_is_a_local_referee_and_an_address_a_chat_endpoint(tiny_model: Path) -> None:
    local, chat = load_referees([str(tiny_model), "judge-1@http://127.0.0.1:9/v1"])
    assert isinstance(local, LocalReferee)
    assert local.name == tiny_model.name
    assert isinstance(chat, ChatReferee)
    assert chat.name == "judge-1"


def test_a_folder_with_an_at_in_its_name_is_a_folder(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a@b").symlink_to(tiny_model)
    check_referees([str(tmp_path / "a@b")])


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (["judge@somewhere"], RecipeError, "after the @ stands an address"),
        (["./nowhere"], ModelError, "does not exist"),
        (["j@http://127.0.0.1:9", "j@http://127.0.0.1:8"], RecipeError, "two referees are called 'j'"),
    ],
)
def test_what_cannot_be_a_referee_is_refused(given: list[str], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        check_referees(given)


def test_an_endpoint_is_asked_a_question_before_anything_is_spent(local_service: Any) -> None:
    local_service.answer = lambda asked: local_service.reply(status=404)
    with pytest.raises(OracleError, match="404"):
        check_referees([f"judge@{local_service.url}"])
    assert len(local_service.asked) == 1
