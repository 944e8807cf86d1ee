"""JSON schemas as callers give them, and what is written of what they allow."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from ibllm_tools.errors import InvalidRequestError, one_line

Schema = Mapping[str, Any] | type[BaseModel]

_ONE = ("items", "additionalItems", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")
_SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_COMBINING = {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "not", "if", "patternProperties", "dependentSchemas"}


def as_json_schema(schema: Schema) -> dict[str, Any]:
    """The JSON schema of a pydantic model, or a copy of the schema that it is already.

    Raises:
        InvalidRequestError: it is neither, or not JSON.
    """
    try:
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            return schema.model_json_schema()
        if isinstance(schema, Mapping):
            copy: dict[str, Any] = json.loads(json.dumps(dict(schema), allow_nan=False))
            return copy
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
        if isinstance(named, dict) and all(key in named for key in part.get("required", ())):
            part.setdefault("additionalProperties", False)
    return schema


def property_names(schema: dict[str, Any]) -> frozenset[str]:
    """The names of all properties that a schema speaks of."""
    return frozenset(name for part in _parts(schema) for name in _names(part.get("properties")))


def pattern_bytes(schema: dict[str, Any]) -> bytes:
    """The bytes that the patterns of a schema speak of."""
    patterns = [part["pattern"] for part in _parts(schema) if isinstance(part.get("pattern"), str)]
    return bytes(sorted(set("".join(patterns).encode()) - set(b"^$*+?()[]{}|\\")))


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
