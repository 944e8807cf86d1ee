"""LlamaIndex's metadata filters in Chroma's language, which the library speaks."""

from collections.abc import Mapping
from typing import Any

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from ibllm_tools.errors import InvalidRequestError, one_line

_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.CONTAINS: "$contains",
}
_CONDITIONS = {FilterCondition.AND: "$and", FilterCondition.OR: "$or", None: "$and"}
_EACH = {FilterOperator.ANY: "$or", FilterOperator.ALL: "$and"}


def as_where(filters: MetadataFilters) -> Mapping[str, Any] | None:
    """The filters as a ``where`` of `MediaLibrary.search`; None for no filter at all.

    Raises:
        InvalidRequestError: a condition or an operator that the library has not.
    """
    if filters.condition is not None and filters.condition not in _CONDITIONS:
        raise InvalidRequestError(
            f"filters joined by {filters.condition.value!r}, expected 'and' or 'or'; use '!=' or 'nin'"
        )
    parts = [
        part
        for item in filters.filters
        if (part := as_where(item) if isinstance(item, MetadataFilters) else _condition(item)) is not None
    ]
    return _joined(_CONDITIONS[filters.condition], parts) if parts else None


def _condition(item: MetadataFilter) -> Mapping[str, Any]:
    if item.operator in _OPERATORS:
        return {item.key: {_OPERATORS[item.operator]: item.value}}
    if item.operator in _EACH and isinstance(item.value, list) and item.value:
        return _joined(_EACH[item.operator], [{item.key: {"$contains": value}} for value in item.value])
    known = ", ".join(operator.value for operator in [*_OPERATORS, *_EACH])
    raise InvalidRequestError(
        f"filter {item.key} {item.operator.value} {one_line(item.value)}, expected one of {known}, with values"
    )


def _joined(how: str, parts: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    return parts[0] if len(parts) == 1 else {how: parts}
