"""What pydantic finds wrong with a recipe, as sentences for the person who wrote it.

constraints[0].target must be in (0, 1], got 1.5 (recipes/detox.yaml, line 14): satisfaction asked for at every prompt
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from adhere.errors import RecipeError
from adhere.recipe.yaml_source import KeyPath, YamlSource, dotted

_PLAIN = {
    "bool_parsing": "true or false", "bool_type": "true or false",
    "int_parsing": "a whole number", "int_type": "a whole number", "int_from_float": "a whole number",
    "float_parsing": "a number", "float_type": "a number", "finite_number": "a finite number",
    "string_type": "a string (in quotes, if it looks like a number)", "path_type": "a path",
    "list_type": "a list", "tuple_type": "a list", "dict_type": "a section of keys and values",
    "model_type": "a section of keys and values", "model_attributes_type": "a section of keys and values",
}  # fmt: skip
_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}


def recipe_error(error: ValidationError, source: YamlSource, root: type[BaseModel]) -> RecipeError:
    """One error that names every fault, each with path, given value, what is allowed, file and line."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        found.setdefault(_path(details, source.data), []).append(details)
    # pydantic counts items that have errors of their own as missing ones
    faults = {
        path: said
        for path, said in found.items()
        if said[0]["type"] != "too_short" or not any(other[: len(path)] == path != other for other in found)
    }
    return RecipeError("\n".join(_sentence(path, said, source, root) for path, said in faults.items()))


def _path(details: ErrorDetails, data: Any) -> KeyPath:
    """The error's place in the data: pydantic's own also names the members of unions."""
    path: KeyPath = ()
    current, tag_seen = data, False
    for number, part in enumerate(details["loc"]):
        if isinstance(current, dict):
            if current.get("kind") == part and not tag_seen:
                tag_seen = True
                continue
            if part in current or (details["type"] == "missing" and number == len(details["loc"]) - 1):
                path, current, tag_seen = (*path, part), current.get(part), False
        elif isinstance(current, list) and isinstance(part, int) and part < len(current):
            path, current, tag_seen = (*path, part), current[part], False
    return path


def _sentence(path: KeyPath, said: list[ErrorDetails], source: YamlSource, root: type[BaseModel]) -> str:
    first, kind = said[0], said[0]["type"]
    section, field = _declared(path, source.data, root)
    description = f": {field.description}" if field is not None and field.description else ""
    if kind == "missing":
        return f"{dotted(path)} is missing ({source.where(path)}){description}"
    if kind == "extra_forbidden":
        return f"{dotted(path)} is unknown ({source.where(path)}){_instead(str(path[-1]), section)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _kind_sentence(path, first, source, field)
    if kind == "value_error":
        return _own_words(path, str(first["ctx"]["error"]), source)
    allowed = list(dict.fromkeys(_allowed(details, field) for details in said))
    got = repr(first["input"])
    got = got if len(got) <= 80 else got[:77] + "..."
    return f"{dotted(path)} must be {' or '.join(allowed)}, got {got} ({source.where(path)}){description}"


def _own_words(path: KeyPath, text: str, source: YamlSource) -> str:
    """A validator of ours speaks for a section, and may begin with the key it means."""
    word = text.split(" ", 1)[0]
    deeper: KeyPath = (*path, *word.split("."))
    prefix = dotted(path)
    if deeper in source.lines or deeper in source.settings:
        return f"{prefix + '.' if prefix else ''}{text} ({source.where(deeper)})"
    return f"{prefix + ': ' if prefix else ''}{text} ({source.where(path)})"


def _kind_sentence(path: KeyPath, details: ErrorDetails, source: YamlSource, field: FieldInfo | None) -> str:
    kinds = [str(model.model_fields["kind"].default) for model in _models(field.annotation if field else None)]
    given = details["input"].get("kind") if isinstance(details["input"], Mapping) else details["input"]
    if given is None:
        return f"{dotted(path)}.kind is missing ({source.where(path)}): one of {', '.join(kinds)}"
    near = difflib.get_close_matches(str(given), kinds, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return (
        f"{dotted(path)}.kind must be one of {', '.join(kinds)}, got {given!r} ({source.where((*path, 'kind'))}){hint}"
    )


def _instead(key: str, section: type[BaseModel] | None) -> str:
    names = list(section.model_fields) if section is not None else []
    near = difflib.get_close_matches(key, names, 1, 0.5)
    return (f"; did you mean {near[0]}?" if near else "") + (f" Allowed here: {', '.join(names)}" if names else "")


def _allowed(details: ErrorDetails, field: FieldInfo | None) -> str:
    kind = details["type"]
    if kind in _BOUNDS:
        return _range(details, field)
    if kind == "literal_error":
        return str(details["ctx"]["expected"]).replace("'", "")
    if kind == "too_short":
        return f"at least {details['ctx']['min_length']} long"
    if kind == "string_too_short":
        return "a string that is not empty"
    if kind == "string_pattern_mismatch":
        return "a name without spaces and slashes"
    return _PLAIN.get(kind) or details["msg"].removeprefix("Input should be ")


def _range(details: ErrorDetails, field: FieldInfo | None) -> str:
    """The whole interval where the field declares one, else the bound that was broken."""
    bounds: dict[str, Any] = {}
    for constraint in field.metadata if field is not None else ():
        bounds |= {name: getattr(constraint, name) for name in ("gt", "ge", "lt", "le") if hasattr(constraint, name)}
    bounds = bounds or dict(details["ctx"])
    low, high = bounds.get("gt", bounds.get("ge")), bounds.get("lt", bounds.get("le"))
    if low is not None and high is not None:
        return f"in {'(' if 'gt' in bounds else '['}{low:g}, {high:g}{')' if 'lt' in bounds else ']'}"
    if low is not None:
        return f"greater than {low:g}" if "gt" in bounds else f"at least {low:g}"
    return f"less than {high:g}" if "lt" in bounds else f"at most {high:g}"


def _declared(path: KeyPath, data: Any, root: type[BaseModel]) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """The section that `path` stands in, and its declaration there (None where it has none)."""
    annotation: Any = root
    section: type[BaseModel] | None = None
    field: FieldInfo | None = None
    current = data
    for part in path:
        if isinstance(part, int):
            annotation = (get_args(annotation) or (None,))[0]
        else:
            section = _model(annotation, current)
            field = section.model_fields.get(part) if section is not None else None
            annotation = field.annotation if field is not None else None
        current = _inside(current, part)
    return section, field


def _model(annotation: Any, value: object) -> type[BaseModel] | None:
    models = list(_models(annotation))
    kind = value.get("kind") if isinstance(value, dict) else None
    chosen = [model for model in models if "kind" in model.model_fields and model.model_fields["kind"].default == kind]
    fitting = chosen or models
    return fitting[0] if len(fitting) == 1 else None


def _inside(value: object, part: str | int) -> object:
    if isinstance(value, list) and isinstance(part, int):
        return value[part]
    return value.get(part) if isinstance(value, dict) else None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for part in get_args(annotation):
        yield from _models(part)
