"""What import-linter cannot see: names, sizes, and what an import costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adhere.errors

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "adhere"
TESTS = ROOT / "tests"

JUNK_DRAWERS = {"common", "helper", "helpers", "misc", "other", "others", "util", "utils"}
LONGEST_FILE = 320
# The backslashes and brackets keep these patterns from finding themselves.
MACHINE_PATH = re.compile(
    r"""(?<![\w.\-/])/(?:home|Users|root|work)/[\w.]  # somebody's home, or the folder of one machine
      | \b[A-Z]:\\{1,2}Users\\""",
    re.VERBOSE,
)


def _python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tracked_files() -> list[Path]:
    """What git tracks or is about to track."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def _is_names_only(node: ast.stmt) -> bool:
    if isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)):
        return True
    if isinstance(node, ast.Expr):  # a docstring
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef) and node.name in {"__getattr__", "__dir__"}  # names loaded when first used


def _error_classes(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name.endswith("Error")]


def test_there_is_something_to_look_at() -> None:
    assert len(_python_files(SRC)) > 10


def test_no_file_or_folder_is_a_junk_drawer() -> None:
    parts = {
        _name(path): set(re.split(r"[/_.]", path.relative_to(ROOT).as_posix().lower()))
        for path in _python_files(SRC, TESTS)
    }
    assert [name for name, words in parts.items() if words & JUNK_DRAWERS] == []


def test_no_source_file_is_too_long() -> None:
    lengths = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in _python_files(SRC)}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_init_files_hold_names_only() -> None:
    for path in SRC.rglob("__init__.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            assert _is_names_only(node), f"{_name(path)}, line {node.lineno}: move it to a file that names the idea"


def test_every_package_has_an_init_file_and_no_test_folder_has() -> None:
    assert {_name(path.parent) for path in _python_files(SRC) if not (path.parent / "__init__.py").exists()} == set()
    assert [_name(path) for path in TESTS.rglob("__init__.py")] == []


@pytest.mark.parametrize("module", ["adhere", "adhere.cli.main", "adhere.recipe.schema"])
def test_what_help_imports_is_light(module: str) -> None:
    heavy = ("torch", "transformers", "datasets", "sklearn", "scipy", "plotly")
    code = f"import sys, {module}; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_no_tracked_file_names_a_folder_of_one_machine() -> None:
    found = []
    for path in _tracked_files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:  # a picture, or another file that is no text
            continue
        found += [f"{_name(path)}:{number}" for number, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert found == []


@pytest.mark.parametrize("path", ["/home" + "/ann/corpus", "x = '/root" + "/.cache'", "C:" + "\\Users\\ann"])
def test_the_folder_of_one_machine_is_recognised(path: str) -> None:
    assert MACHINE_PATH.search(path)


def test_every_error_is_in_the_tree_and_in_the_drawing_of_it() -> None:
    home = SRC / "errors.py"
    assert [(_name(path), name) for path in _python_files(SRC) if path != home for name in _error_classes(path)] == []
    for name in _error_classes(home):
        assert issubclass(getattr(adhere.errors, name), adhere.errors.AdhereError)
    drawn = re.findall(r"\b\w+Error\b", adhere.errors.__doc__ or "")
    assert sorted(drawn) == sorted(_error_classes(home))
