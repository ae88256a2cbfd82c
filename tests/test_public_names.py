"""The names that users import. To change this file is to change the promise made to them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import adhere

PUBLIC_NAMES = ["ConstrainedConfig", "ConstrainedTrainer", "Constraint", "Oracle", "__version__"]


def test_the_public_names_are_these() -> None:
    assert adhere.__all__ == PUBLIC_NAMES
    assert dir(adhere) == PUBLIC_NAMES


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(adhere, name) is not None


@pytest.mark.parametrize("name", [name for name in PUBLIC_NAMES if name != "__version__"])
def test_every_public_name_is_a_class_of_ours_with_a_docstring(name: str) -> None:
    public = getattr(adhere, name)
    assert isinstance(public, type)
    assert public.__name__ == name
    assert public.__module__.startswith("adhere.")
    assert public.__doc__


def test_a_misspelt_name_is_an_attribute_error_that_offers_the_names() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'ConstraintTrainer'.*ConstrainedTrainer"):
        _ = adhere.ConstraintTrainer  # type: ignore[attr-defined]


def test_the_changelog_knows_this_version() -> None:
    changelog = (Path(__file__).resolve().parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"\b{re.escape(adhere.__version__)}\b", changelog)


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(adhere.__file__).parent / "py.typed").is_file()
