"""Classifier-free guidance scale along the sequence."""

import math


def guidance_scale(step: int, num_steps: int, scale: float, power: float) -> float:
    """1 + (s - 1) (1 - cos(pi (t / T)^p)) / 2: from 1 at the first code towards `scale` at the last.

    The power-cosine schedule of the published sampler. Larger `power` keeps the scale low longer.
    """
    return 1 + (scale - 1) * (1 - math.cos(math.pi * (step / num_steps) ** power)) / 2
