import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["kl", "nado", "prefixes", "target"])
def test_the_examples_in_the_docstrings_run(name):
    module = importlib.import_module(f"adhere.functional.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
