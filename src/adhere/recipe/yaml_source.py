"""A recipe's YAML with the line of every key, and settings of the command line laid over it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adhere.errors import RecipeError

KeyPath = tuple[str | int, ...]


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
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(
                f"{name}: a recipe is a mapping of sections (model, corpus, constraints, ...) to settings"
            )
        source = YamlSource(name, {})
        _note_lines(source, node, (), [])
        source.data = loader.construct_document(node)
        return source
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise RecipeError(f"{name}{where}: not YAML: {getattr(error, 'problem', None) or error}") from error
    except (ValueError, RecursionError) as error:  # an impossible date, a thousand brackets
        raise RecipeError(f"{name}: not YAML that can be read: {error}") from error
    finally:
        loader.dispose()


def _note_lines(source: YamlSource, node: yaml.Node, path: KeyPath, above: list[yaml.Node]) -> None:
    if any(node is other for other in above):
        raise RecipeError(f"{source.name}, line {node.start_mark.line + 1}: the alias holds itself")
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
            _note_lines(source, value, (*path, name), [*above, node])
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            source.lines[*path, number] = value.start_mark.line + 1
            _note_lines(source, value, (*path, number), [*above, node])


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
        try:
            value = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise RecipeError(
                f"--set {setting}: {text!r} is no YAML value: {getattr(error, 'problem', error)}"
            ) from error
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
