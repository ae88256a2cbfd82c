"""A recipe's YAML with the line of every key, and settings of the command line laid over it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adhere.errors import RecipeError

KeyPath = tuple[str | int, ...]

MOST_VALUES = 100_000
"""Values in a recipe, an alias counted as all that it stands for: a few lines can stand for more than memory holds."""
_KEY_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge", "tag:yaml.org,2002:value"}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but 2e-5 is a number, as everybody who writes recipes expects."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(slots=True)
class YamlSource:
    """What a recipe file and `--set` say, with where they say it."""

    name: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    settings: dict[KeyPath, str] = field(default_factory=dict)  # by path, the `--set` that gave it

    def where(self, path: KeyPath) -> str:
        """`recipes/detox.yaml, line 14`, or the `--set` that gave the value; of the section where a key is missing."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.settings:
                return f"--set {self.settings[path[:end]]}"
            if path[:end] in self.lines and end:
                return f"{self.name}, line {self.lines[path[:end]]}"
        return self.name


def read_yaml(path: Path) -> YamlSource:
    """Read a recipe file.

    Raises:
        RecipeError: it is missing, unreadable, not UTF-8, not YAML, no mapping, or says a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe (working folder: {Path.cwd()})") from None
    except IsADirectoryError:
        raise RecipeError(f"{path} is a folder; give the recipe's YAML file") from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}, byte {error.start + 1}: not UTF-8 ({error.reason}); save the recipe as UTF-8"
        ) from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> YamlSource:
    """Read a recipe from text; `name` is what messages call it. Raises as `read_yaml`."""
    source = YamlSource(name, {})

    def note(node: yaml.Node | None) -> None:
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(
                f"{name}: a recipe is a mapping of sections (model, corpus, constraints, ...) to settings"
            )
        _note_lines(source, node, ())

    source.data = read_value(text, name, note)
    return source


def read_value(text: str, name: str, note: Callable[[yaml.Node | None], None] = lambda node: None) -> Any:
    """What a text of YAML says, whatever it is.

    Args:
        name: what messages call it.
        note: is shown the nodes before they are made values.

    Raises:
        RecipeError: not YAML; a key that is no word; aliases that stand for too much; characters that no value may hold.
    """
    try:
        loader = _Loader(text)  # which looks at the characters
        try:
            node = loader.get_single_node()
            if node is not None:
                _check(node, name, [], {})
            note(node)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        raise RecipeError(
            f"{name}, character {error.position + 1}: not YAML: {chr(error.character)!r} is a control character"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise RecipeError(f"{name}{where}: not YAML: {getattr(error, 'problem', None) or error}") from error
    except RecursionError as error:
        raise RecipeError(f"{name}: not YAML that can be read: it is nested too deeply") from error
    except ValueError as error:  # an impossible date, a number of thousands of digits
        raise RecipeError(f"{name}: not YAML that can be read: {error}") from error


def _check(node: yaml.Node, name: str, above: list[yaml.Node], sizes: dict[int, int]) -> int:
    """How many values a node stands for; it is looked at once, however many aliases there are of it."""
    where = f"{name}, line {node.start_mark.line + 1}"
    if any(node is other for other in above):
        raise RecipeError(f"{where}: the alias holds itself")
    if id(node) in sizes:
        return sizes[id(node)]
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.ScalarNode):
        if "\x00" in node.value or any("\ud800" <= char <= "\udfff" for char in node.value):
            raise RecipeError(f"{where}: {node.value[:60]!r} holds a null character, or half a character")
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag not in _KEY_TAGS:
                shown = repr(key.value)[:60] if isinstance(key, yaml.ScalarNode) else "a list or a section"
                raise RecipeError(f"{where}: a key must be a word, got {shown} (in quotes, if it looks like a number)")
            inside += [key, value]
    else:
        inside += node.value
    size = 1 + sum(_check(part, name, [*above, node], sizes) for part in inside)
    if size > MOST_VALUES:
        raise RecipeError(f"{where}: more than {MOST_VALUES:,} values (each alias counts as all that it stands for)")
    sizes[id(node)] = size
    return size


def _note_lines(source: YamlSource, node: yaml.Node, path: KeyPath) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in seen and name != "<<":
                shown = dotted((*path, name))
                raise RecipeError(
                    f"{source.name}, line {line}: {shown} is said a second time (first in line {seen[name]})"
                )
            seen[name] = line
            source.lines[*path, name] = line
            _note_lines(source, value, (*path, name))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            source.lines[*path, number] = value.start_mark.line + 1
            _note_lines(source, value, (*path, number))


def override(source: YamlSource, settings: Sequence[str]) -> None:
    """Lay `a.b.c=value` over what the file says; a value is read as YAML, a number or `[0]` counts into a list.

    Raises:
        RecipeError: no `=`, a value that is no YAML, or a path through something that is no section or list.
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        parts = [part for part in re.split(r"[.\[\]]+", name.strip()) if part]
        if not equals or not parts:
            raise RecipeError(
                f"--set {setting!r}: write it as section.key=value, for example training.learning_rate=2e-5"
            )
        value = read_value(text, f"--set {setting}")
        _set(source, setting, parts, value)


def _set(source: YamlSource, setting: str, parts: Sequence[str], value: object) -> None:
    current: Any = source.data
    path: KeyPath = ()
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(current, list):
            if not part.isdigit() or int(part) >= len(current):
                allowed = f"0 to {len(current) - 1}" if current else "none: it is empty"
                raise RecipeError(f"--set {setting}: {dotted(path)} is a list with the entries {allowed}; got {part!r}")
            key: str | int = int(part)
        elif isinstance(current, dict):
            key = part
        else:
            raise RecipeError(f"--set {setting}: {dotted(path)} is {current!r}, not a section, so it has no {part!r}")
        path = (*path, key)
        if last:
            current[key] = value
            source.settings[path] = setting
        elif isinstance(current, dict) and current.get(part) is None:  # not there, or left empty as in `training:`
            current[part] = {}
            source.settings.setdefault(path, setting)
            current = current[part]
        else:
            current = current[key]


def dotted(path: KeyPath) -> str:
    """`constraints[0].target`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
