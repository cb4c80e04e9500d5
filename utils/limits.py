"""Ranges of numbers, the same for options of a configuration and for command-line flags."""

import math
import operator
from collections.abc import Mapping
from typing import Any

LIMITS = {
    "min": (operator.ge, "at least"),
    "above": (operator.gt, "above"),
    "max": (operator.le, "at most"),
    "below": (operator.lt, "below"),
}


def describe_limits(limits: Mapping[str, Any]) -> list[str]:
    """The limits in words, e.g. ["at least 0", "below 1"]. Other keys are passed over."""
    return [f"{words} {limits[key]}" for key, (_, words) in LIMITS.items() if key in limits]


def broken_limit(value: Any, limits: Mapping[str, Any]) -> str:
    """What is wrong with a number, e.g. "is -1; it must be at least 0"; empty if nothing, or it is no number.

    NaN and infinity are wrong everywhere.
    """
    if not isinstance(value, int | float):
        return ""
    if not math.isfinite(value):
        return f"is {value}; it must be a finite number"
    broken = (
        f"is {value}; it must be {words} {limits[key]}"
        for key, (holds, words) in LIMITS.items()
        if key in limits and not holds(value, limits[key])
    )
    return next(broken, "")
