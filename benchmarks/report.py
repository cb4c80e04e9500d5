"""What a benchmark measured: lines of text, and with --json FILE rows of numbers."""

import argparse
import math
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from utils.atomic import write_json


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, help="also write machine, arguments and results to this file")


class Report:
    """Prints results; writes them to `args.json` after every row, so that a run that is cut off leaves its rows."""

    def __init__(self, args: argparse.Namespace):
        self.path: Path | None = args.json
        arguments = {name: value for name, value in vars(args).items() if name != "json"}
        self.content: dict[str, Any] = {"machine": describe_machine(), "arguments": arguments, "rows": []}

    def add(self, text: str, **row: Any) -> None:
        """text: for the terminal. row: the same as numbers and names; a number that is not finite becomes None."""
        print(text, flush=True)
        self.content["rows"].append({name: _finite(value) for name, value in row.items()})
        if self.path:
            write_json(self.path, self.content)


def _finite(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value  # numpy's numbers
    return None if isinstance(value, float) and not math.isfinite(value) else value
