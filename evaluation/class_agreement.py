"""Share of samples that a classifier recognises as the class they were drawn for."""

from torch import Tensor


def class_agreement(logits: Tensor, labels: Tensor) -> float:
    """logits: (n, classes), labels: (n,) int64 -> share in [0, 1]."""
    return float((logits.argmax(1) == labels).double().mean())
