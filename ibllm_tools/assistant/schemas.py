"""JSON schemas as callers give them, and what is written of what they allow."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from ibllm_tools.errors import InvalidRequestError, one_line

Schema = Mapping[str, Any] | type[BaseModel]

MOST_NESTED = 100
"""Levels of braces and brackets in a schema."""
MOST_LEVELS = 1_000
"""The same, times what a schema refers to: llguidance follows references on the stack, and the process ends with it."""

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_ONE = (
    "items",
    "additionalItems",
    "additionalProperties",
    "contains",
    "not",
    "if",
    "then",
    "else",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
)
_SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_COMBINING = {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "patternProperties", "dependentSchemas"}


def as_json_schema(schema: Schema) -> dict[str, Any]:
    """The JSON schema of a pydantic model, or a copy of the schema that it is already.

    Raises:
        InvalidRequestError: it is neither, not JSON, nested too deeply, or has an ``$id`` within it.
    """
    try:
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            return _unambiguous(_shallow(schema.model_json_schema()))
        if isinstance(schema, Mapping):
            return _unambiguous(_shallow(json.loads(json.dumps(dict(schema), allow_nan=False))))
    except InvalidRequestError:
        raise
    except RecursionError as error:
        raise InvalidRequestError(f"schema nested too deeply, expected at most {MOST_NESTED} levels") from error
    except Exception as error:  # pydantic has many for what JSON schema cannot say
        raise InvalidRequestError(f"schema {one_line(schema, 60)} is no JSON schema: {one_line(error)}") from error
    raise InvalidRequestError(
        f"schema {one_line(schema, 60)} of type {type(schema).__name__}, expected a JSON schema as a mapping, or a "
        "pydantic model"
    )


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with objects that have no properties but those it names; whatever fits it fits the schema, too.

    A language model that may invent properties does not stop inventing them. Where an object is put together from
    several schemas, none of them names all its properties, and the schema stays as it is.
    """
    parts = list(_parts(schema))
    if any(("properties" in part and _COMBINING & part.keys()) or "allOf" in part for part in parts):
        return schema
    for part in parts:
        named = part.get("properties")
        required = part.get("required", [])
        if isinstance(named, dict) and isinstance(required, list) and set(map(str, required)) <= named.keys():
            part.setdefault("additionalProperties", False)
    return schema


def property_names(schema: dict[str, Any]) -> frozenset[str]:
    """The names of all properties that a schema speaks of."""
    return frozenset(name for part in _parts(schema) for name in _names(part.get("properties")))


def pattern_bytes(schema: dict[str, Any]) -> bytes:
    """The bytes that the patterns of a schema speak of."""
    patterns = [part["pattern"] for part in _parts(schema) if isinstance(part.get("pattern"), str)]
    return bytes(sorted(set("".join(patterns).encode()) - set(b"^$*+?()[]{}|\\")))


def _shallow(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, if it can be followed without running out of stack."""
    nested, references = 0, set[str]()
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        part, level = waiting.pop()
        nested = max(nested, level)
        if isinstance(part, dict):
            references.update(name for key in _REFERENCES if isinstance(name := part.get(key), str))
        inner = part.values() if isinstance(part, dict) else part
        waiting += [(item, level + 1) for item in inner if isinstance(item, dict | list)]
    if nested > MOST_NESTED or nested * len(references) > MOST_LEVELS:
        raise InvalidRequestError(
            f"schema {one_line(schema, 60)} is nested {nested:,} levels deep and refers to {len(references):,} "
            f"schemas, expected at most {MOST_NESTED} levels, and {MOST_LEVELS:,} times both; write it flatter, or "
            "ask for less"
        )
    return schema


def _unambiguous(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, if no part of it can stand for another: llguidance takes one with the same ``$id`` for the whole."""
    for part in _parts(schema):
        if part is not schema and isinstance(name := part.get("$id"), str):
            raise InvalidRequestError(
                f"schema {one_line(schema, 60)} has another with the $id {one_line(name)!r} within it, "
                "expected none but at the top; leave it out, and refer to it by its place, such as #/$defs/NAME"
            )
    return schema


def _names(properties: object) -> Iterable[str]:
    return properties if isinstance(properties, dict) else ()


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and all schemas within it."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key in _ONE:
        yield from _parts(schema.get(key))
    for key in _SEVERAL:
        if isinstance(several := schema.get(key), list):
            for part in several:
                yield from _parts(part)
    for key in _NAMED:
        if isinstance(named := schema.get(key), dict):
            for part in named.values():
                yield from _parts(part)
