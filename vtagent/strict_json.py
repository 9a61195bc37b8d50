"""Strict JSON: what a model may write in a call, and every checkpointer can store."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

_PLAIN = frozenset({str, bool, type(None), int, float, dict, list})


def is_strict(value: object, levels: int = 0) -> bool:
    """Whether a value, written as JSON, is read back by `parse_call` unchanged.

    Args:
        value: Any value.
        levels: How many lists and objects may stand inside one another.
    """
    if type(value) not in _PLAIN:
        return False
    match value:
        case str():
            return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
        case None | bool():
            return True
        case int():
            return -(10**17) < value < 10**18  # at most 18 characters
        case float():
            return math.isfinite(value)
        case dict():
            return levels > 0 and all(
                type(key) is str and is_strict(key) and is_strict(part, levels - 1) for key, part in value.items()
            )
        case list():
            return levels > 0 and all(is_strict(part, levels - 1) for part in value)
    return False


def nested_beyond(value: object, levels: int) -> bool:
    """Returns whether lists and objects are nested more than `levels` deep.

    Args:
        value: Any value.
        levels: The depth that is allowed.
    """
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return not levels or any(nested_beyond(part, levels - 1) for part in inner)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is given twice")
    return result


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("a number is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > 18:  # checkpointers store integers of at most 64 bits
        raise ValueError("a number is too large")
    return int(text)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_int=_integer, parse_constant=_no_constant
)
"""Decodes JSON; raises ValueError for a key given twice, NaN, infinity, or a number that cannot be stored."""
