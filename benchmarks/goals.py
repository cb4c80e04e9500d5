"""What an H100 should reach, and what a folder of results says about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Rows = list[dict[str, Any]]
Contents = dict[str, dict[str, Any]]  # of each part's file, by the part's name
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Goal:
    what: str
    goal: str
    parts: tuple[str, ...]
    value: Callable[[Rows], float | None]  # of the rows that were measured
    format: Callable[[float], str]
    of_all_rows: bool = False  # it says nothing before all rows of its parts are there

    def measured(self, contents: Contents) -> str:
        parts = [contents.get(part, {}) for part in self.parts]
        # The worst of some phases is not the worst of all.
        if not all(part.get("rows") and (part["status"] == "done" or not self.of_all_rows) for part in parts):
            return NOT_MEASURED
        value = self.value([row for part in parts for row in part["rows"]])
        return NOT_MEASURED if value is None else self.format(value)


def _least(name: str) -> Callable[[Rows], float | None]:
    return lambda rows: min((row[name] for row in rows if row.get(name) is not None), default=None)


def _times(value: float) -> str:
    return f"{value:.2f} times"


def _percent(value: float) -> str:
    return f"{value:.0%}"


B = ("sampling_alitok_b",)
GOALS = (
    Goal("50,000 images of AliTok-B with decoding", "at most 3.5 min", B, _least("minutes"), "{:.2f} min".format),
    Goal("codes of AliTok-B, over the memory's floor", "at most 2 times, then 1.5", B, _least("over_floor"), _times),
    *(
        Goal(
            f"training AliTok-{size.upper()}, of the measured matrix peak",
            f"at least {goal} %",
            (f"training_{size}",),
            _least("of_measured_peak"),
            _percent,
        )
        for size, goal in (("b", 40), ("l", 50), ("xl", 50))
    ),
    *(
        Goal(
            f"training AliTok-{size.upper()}, over the plain loop",
            "at least 2 times",
            (f"training_{size}",),
            _least("ratio"),
            _times,
        )
        for size in ("b", "l", "xl")
    ),
    Goal(
        "ten-crop pretokenization, end to end",
        "at least 400 images/s",
        ("pretokenization",),
        _least("images_per_s"),
        "{:.0f} images/s".format,
    ),
    Goal(
        "a tokenizer step over eager float32, the slowest phase",
        "at least 2 times",
        ("tokenizer_stage1", "tokenizer_stage2"),
        _least("ratio"),
        _times,
        of_all_rows=True,
    ),
)
