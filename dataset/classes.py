"""One numbering of the classes: two parts of a data set agree by the names of their classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.errors import UserError, nearest


def are_numbers(names: Sequence[str]) -> bool:
    """Whether all classes are named by a number, as in published codes and webdataset shards."""
    return all(name.isascii() and name.isdigit() for name in names)


def class_numbers(
    labels: np.ndarray, names: Sequence[str], reference: Sequence[str], source: str | Path, owner: str | Path
) -> np.ndarray:
    """The number in `reference` of each of the `names` (C,) int64; -1 for a class without images that it lacks.

    labels: (n,) numbers into `names`, those of `source`; reference: the names of `owner`. If only one of the two
    is named by numbers, these are positions in a list of names that is as long.
    Raises UserError for a class with images that `owner` does not have.
    """
    if tuple(names) == tuple(reference):
        return np.arange(len(names))
    if are_numbers(names) != are_numbers(reference):
        if len(names) != len(reference):
            raise UserError(
                f"{source} has {len(names)} classes, {owner} {len(reference)}, and only one of them names its classes:"
                " their numbers cannot be compared"
            )
        return np.arange(len(names))
    simplify = (lambda name: str(int(name))) if are_numbers(names) else str
    numbers = {simplify(name): number for number, name in enumerate(reference)}
    table = np.array([numbers.get(simplify(name), -1) for name in names], dtype=np.int64)
    lost = [names[label] for label in np.unique(labels) if table[label] < 0]
    if lost:
        raise UserError(
            f"class '{lost[0]}' of {source} is not among the {len(reference)} classes of {owner}"
            f"{nearest(lost[0], reference)}: both must name their classes alike"
        )
    return table
