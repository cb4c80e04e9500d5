"""Types of command-line arguments."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.limits import broken_limit


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the defaults to the texts of --help, except None, which a text has to explain."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def number(kind: type, **limits: Any) -> Callable[[str], Any]:
    """A type for argparse: int or float within `limits` (min, above, max, below), never NaN or infinite."""

    def read(text: str) -> Any:
        value = kind(text)
        if broken := broken_limit(value, limits):
            raise argparse.ArgumentTypeError(broken)
        return value

    read.__name__ = kind.__name__  # argparse names it in the message for a text that is no number
    return read


def at_least(least: int) -> Callable[[str], int]:
    """A type for argparse: integers from `least` on."""
    return number(int, min=least)


def file_path(text: str) -> Path:
    """A type for argparse: a path, with the home folder in place of ~."""
    return Path(text).expanduser()
