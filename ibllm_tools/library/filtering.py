"""Chroma's filters of metadata, evaluated here.

Chroma compares a query with every entry that passes: among 36,000 entries that takes 60 ms where 1 % pass and 290 where
half do, an unfiltered query 6. To look up the ids of all that pass takes 9 and 110 ms, to read the metadata of an entry
0.15 ms; to ask which of 100 known ids pass, of all things, 3 seconds, so nobody does. `ibllm_tools.library.searching`
chooses.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ibllm_tools.errors import InvalidRequestError, one_line
from ibllm_tools.store.chroma import Where

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda stored, wanted: _alike(stored, wanted) and stored == wanted,
    "$gt": lambda stored, wanted: _ordered(stored, wanted) and stored > wanted,
    "$gte": lambda stored, wanted: _ordered(stored, wanted) and stored >= wanted,
    "$lt": lambda stored, wanted: _ordered(stored, wanted) and stored < wanted,
    "$lte": lambda stored, wanted: _ordered(stored, wanted) and stored <= wanted,
    "$in": lambda stored, wanted: any(_alike(stored, item) and stored == item for item in wanted),
    "$contains": lambda stored, wanted: isinstance(stored, list) and wanted in stored,
}
NEGATED = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}
"""These also keep what lacks the key."""


def matches(where: Where, metadata: Mapping[str, Any]) -> bool:
    """Whether a record's metadata passes a filter."""
    for key, condition in where.items():
        if key == "$and":
            passed = all(matches(part, metadata) for part in condition)
        elif key == "$or":
            passed = any(matches(part, metadata) for part in condition)
        else:
            passed = _holds(condition if isinstance(condition, Mapping) else {"$eq": condition}, metadata.get(key))
        if not passed:
            return False
    return True


def checked_where(where: object) -> Where:
    """A filter that Chroma takes: conditions side by side become one ``$and``.

    Raises:
        InvalidRequestError: not a filter.
    """
    if not isinstance(where, Mapping) or not where:
        raise InvalidRequestError(f'where {one_line(where)}, expected a filter like {{"tags": {{"$contains": "x"}}}}')
    parts: list[Where] = []
    for key, condition in where.items():
        if key in ("$and", "$or"):
            if not isinstance(condition, list | tuple) or not condition:
                raise InvalidRequestError(f"{key} {one_line(condition)}, expected a list of filters")
            below = [checked_where(part) for part in condition]
            parts.append(below[0] if len(below) == 1 else {key: below})
        elif isinstance(key, str) and not key.startswith("$"):
            parts += _conditions(key, condition if isinstance(condition, Mapping) else {"$eq": condition})
        else:
            raise InvalidRequestError(f"{one_line(key)} in a filter, expected a metadata key, $and or $or")
    return parts[0] if len(parts) == 1 else {"$and": parts}


def _conditions(key: str, condition: Mapping[str, Any]) -> list[Where]:
    if not condition or any(operator not in OPERATORS and operator not in NEGATED for operator in condition):
        raise InvalidRequestError(
            f"{key}: {one_line(dict(condition))}, expected some of {', '.join([*OPERATORS, *NEGATED])}, with values"
        )
    for operator, wanted in condition.items():
        if operator in ("$in", "$nin"):
            if not isinstance(wanted, list | tuple) or not wanted or len({type(item) for item in wanted}) > 1:
                raise InvalidRequestError(
                    f"{key}: {operator} {one_line(wanted)}, expected values of one type in a list"
                )
        elif operator[:3] in ("$gt", "$lt"):
            if isinstance(wanted, bool) or not isinstance(wanted, int | float):
                raise InvalidRequestError(f"{key}: {operator} {one_line(wanted)}, expected a number")
        elif not isinstance(wanted, str | int | float | bool):
            raise InvalidRequestError(f"{key}: {operator} {one_line(wanted)}, expected text, a number, true or false")
    return [{key: {operator: wanted}} for operator, wanted in condition.items()]


def _holds(condition: Mapping[str, Any], stored: Any) -> bool:
    for operator, wanted in condition.items():
        if operator in NEGATED:
            passed = stored is None or not OPERATORS[NEGATED[operator]](stored, wanted)
        else:
            passed = stored is not None and OPERATORS[operator](stored, wanted)
        if not passed:
            return False
    return True


def _alike(stored: Any, wanted: Any) -> bool:
    return isinstance(stored, bool) == isinstance(wanted, bool) and not isinstance(stored, list)


def _ordered(stored: Any, wanted: Any) -> bool:
    numbers = (int, float)
    return all(isinstance(value, numbers) and not isinstance(value, bool) for value in (stored, wanted))
