"""Recipes that cannot be read or carried out, each as the bytes of a file; and wrong values for every field there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from adhere.guidance.constraint import DualConfig
from adhere.recipe.schema import ConstraintSection, Recipe
from adhere.training.method_config import DomainConfig

KeyPath = tuple[str | int, ...]

MINIMAL: dict[str, Any] = {
    "model": {"path": "m"},
    "corpus": {"path": "c.jsonl"},
    "constraints": [{"oracle": {"kind": "json"}}],
    "output_dir": "runs/x",
}
_GOOD = json.dumps(MINIMAL)
"""JSON is YAML."""

NEEDED: dict[str, dict[str, Any]] = {
    "regex": {"pattern": "x"},
    "words": {"words": ["x"]},
    "length": {"maximum": 3},
    "classifier": {"model": "m", "label": "l"},
    "guard": {"preset": "wildguard"},
    "judge": {"model": "m", "rubric": "r"},
    "endpoint": {"url": "https://x.org", "request": {"t": "{output}"}, "score_path": "s", "direction": "violation"},
    "callable": {"function": "m:f"},
    "all": {"oracles": [{"kind": "json"}]},
    "any": {"oracles": [{"kind": "json"}]},
    "not": {"oracle": {"kind": "json"}},
}
"""What an oracle of a kind must have besides its kind."""

WRONG: tuple[Any, ...] = ({"unheard_of": 1}, "\x1b[2J nonsense", float("nan"), -(10**30), [[1]], 10**400)
ANYTHING = {("constraints", 0, "oracle", "request")}
"""Fields that take every value: the template of a request is any JSON."""


def every_field() -> Iterator[tuple[dict[str, Any], KeyPath]]:
    """A recipe, and the path of a field in it; found in the schema, so that a new field is here by itself."""
    for path in _fields(Recipe, ()):
        yield MINIMAL, path
    for section, at in ((ConstraintSection, ("constraints", 0)), (DualConfig, ("constraints", 0, "dual"))):
        yield from ((MINIMAL, (*at, name)) for name in section.model_fields)
    yield from ((MINIMAL, ("domains", "d", name)) for name in DomainConfig.model_fields)
    for model in models(ConstraintSection.model_fields["oracle"].annotation):
        kind = model.model_fields["kind"].default
        at = ("constraints", 0, "oracle")
        recipe = laid(MINIMAL, at, {"kind": kind, **NEEDED.get(kind, {})})
        yield from ((recipe, path) for path in _fields(model, at))


def every_section() -> Iterator[tuple[dict[str, Any], KeyPath]]:
    """A recipe, and the path of a section in it that takes no other keys than its own."""
    found = {(json.dumps(recipe), path[:-1]): recipe for recipe, path in every_field()}
    yield from ((recipe, path) for (_, path), recipe in found.items())


def laid(recipe: dict[str, Any], path: KeyPath, value: object) -> dict[str, Any]:
    """The recipe with a value at a path."""
    changed = json.loads(json.dumps(recipe))
    current = changed
    for part in path[:-1]:
        current = current[part] if isinstance(current, list) else current.setdefault(part, {})
    current[path[-1]] = value
    return dict(changed)


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for part in get_args(annotation):
        yield from models(part)


def _fields(section: type[BaseModel], at: KeyPath) -> Iterator[KeyPath]:
    for name, field in section.model_fields.items():
        yield (*at, name)
        inner = _section_in(field)
        if inner is not None:
            yield from _fields(inner, (*at, name))


def _section_in(field: FieldInfo) -> type[BaseModel] | None:
    """The one section that a field holds; oracles, lists and dictionaries of sections are walked apart."""
    found = list(models(field.annotation))
    alone = len(found) == 1 and "dict[" not in str(field.annotation) and "tuple[" not in str(field.annotation)
    return found[0] if alone else None


def _aliases(depth: int) -> str:
    """A few hundred bytes that are ten to the `depth` strings once they are read: "a billion laughs"."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for level in range(1, depth):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines) + "\n"


BROKEN_TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "a comment alone": b"# to be written\n",
    "null": b"null\n",
    "a list": b"- model\n- corpus\n",
    "a string": b"detox\n",
    "a number": b"12\n",
    "a mapping that is empty": b"{}\n",
    "two documents": f"{_GOOD}\n---\n{_GOOD}".encode(),
    "a tab as indentation": b"model:\n\tpath: m\n",
    "indentation that does not fit": b"model:\n    path: m\n  revision: x\n",
    "a bracket that is never closed": b"constraints: [{oracle: {kind: json}\n",
    "a quote that is never closed": b'model: {path: "m}\n',
    "a key without colon": b"model\ncorpus: x\n",
    "cut off in the middle": _GOOD[: len(_GOOD) // 2].encode(),
    "cut off in a string": _GOOD[:20].encode(),
    "a section said twice": b"model: {path: m}\nmodel: {path: n}\n",
    "a key said twice in a section": b"model: {path: m, path: n}\n",
    "a key said twice deep down": b"constraints:\n- oracle:\n    kind: json\n    kind: regex\n",
    "an alias of nothing": b"model: *m\n",
    "an alias that holds itself": b"model: &m\n  path: *m\n",
    "an alias in a list that holds itself": b"constraints: &c [*c]\n",
    "a bomb of aliases": _aliases(12).encode(),
    "a bomb of merged keys": ("a0: &a0 {k: 1}\n" + "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12))).encode(),
    "a Python object": b"model: !!python/object/apply:os.system ['true']\n",
    "a Python name": b"model: {path: !!python/name:os.system ''}\n",
    "a tag of another language": b"model: !ruby/object:Gem {}\n",
    "binary data": b"model: {path: !!binary aGVsbG8=}\n",
    "a set": b"model: !!set {path, revision}\n",
    "a date as path": b"model: {path: 2024-01-01}\n",
    "an impossible date": b"model: {path: 2024-02-31}\n",
    "a list as key": b"? [a, b]\n: c\n",
    "a mapping as key": b"? {a: b}\n: c\n",
    "a number as key": b"1: {path: m}\n",
    "true as key": b"yes: {path: m}\n",
    "null as key": b"~: {path: m}\n",
    "merging what is no mapping": b"model:\n  <<: 7\n  path: m\n",
    "a thousand brackets": b"model: " + b"[" * 2_000,
    "a thousand braces": b"model: " + b"{a: " * 2_000,
    "a number of ten thousand digits": b"seed: " + b"9" * 10_000 + b"\n",
    "an integer in base sixty": b"seed: 190:20:30\nmodel: {path: m}\n",
    "Latin-1": "model: {path: caf\xe9}\n".encode("latin-1"),
    "UTF-16": _GOOD.encode("utf-16"),
    "UTF-32": _GOOD.encode("utf-32"),
    "null bytes": b"\x00" * 64,
    "bytes that are no text": bytes(range(256)),
    "a control character": b"model: {path: 'a\x07b'}\n",
    "an escape of a terminal": b"\x1b[2Jmodel: {path: m}\n",
    "half a character": b'model: {path: "\\ud800"}\n',
    "a page of HTML": b"<!DOCTYPE html><html><body>404</body></html>",
    "JSON with a comma too many": b'{"model": {"path": "m"},}x',
    "TOML": b'[model]\npath = "m"\n',
    "a key of a hundred thousand characters": b"m" * 100_000 + b": {path: m}\n",
    "a directive that is none": b"%YAML 9.9\n---\nmodel: {path: m}\n",
    "a Windows path in double quotes": b'model: {path: "C:\\Work\\x"}\n',
    "a template that nobody filled in": b"model: {path: {{ model }}}\n",
}  # fmt: skip
