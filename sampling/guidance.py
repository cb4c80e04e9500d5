"""Classifier-free guidance (Ho and Salimans, arXiv:2207.12598): its scale along the sequence."""

import math


def _power_cosine(progress: float, scale: float, power: float) -> float:
    """From 1 at the first code towards `scale`: the published sampler's. Larger `power` stays low longer."""
    return 1 + (scale - 1) * (1 - math.cos(math.pi * progress**power)) / 2


def _linear(progress: float, scale: float, power: float) -> float:
    """From 1 at the first code towards `scale`; `power` bends it, 1 is a straight line."""
    return 1 + (scale - 1) * progress**power


def _constant(progress: float, scale: float, power: float) -> float:
    return scale


SCHEDULES = {"power_cosine": _power_cosine, "linear": _linear, "constant": _constant}


def guidance_scale(step: int, num_steps: int, scale: float, power: float, schedule: str = "power_cosine") -> float:
    """Scale of step 0 .. num_steps - 1; 1 means conditional logits alone.

    Power-cosine: 1 + (s - 1) (1 - cos(pi (t / T)^p)) / 2.
    """
    return SCHEDULES[schedule](step / num_steps, scale, power)
