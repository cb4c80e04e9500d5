"""Classifier-free guidance (Ho and Salimans, arXiv:2207.12598): the scale at each code."""

import math


def _power_cosine(progress: float, scale: float, power: float) -> float:
    """From 1 at the first code towards `scale`, as in the published sampler. A larger `power` keeps it low longer."""
    return 1 + (scale - 1) * (1 - math.cos(math.pi * progress**power)) / 2


def _linear(progress: float, scale: float, power: float) -> float:
    """From 1 at the first code towards `scale`; power 1 is a straight line."""
    return 1 + (scale - 1) * progress**power


def _constant(progress: float, scale: float, power: float) -> float:
    return scale


SCHEDULES = {"power_cosine": _power_cosine, "linear": _linear, "constant": _constant}


def guidance_scale(position: int, num_codes: int, scale: float, power: float, schedule: str = "power_cosine") -> float:
    """Scale at position 0 .. num_codes - 1; 1 means the conditional logits.

    Power-cosine: 1 + (s - 1) (1 - cos(pi (t / T)^p)) / 2.
    """
    return SCHEDULES[schedule](position / num_codes, scale, power)
