"""Guidance scales along the sequence."""

import numpy as np
import pytest

from sampling.guidance import guidance_scale


def test_guidance_schedule():
    """The published sampler's numbers."""
    assert guidance_scale(0, 273, 16.0, 1.8) == 1.0
    assert np.isclose(guidance_scale(136, 273, 16.0, 1.8), 3.815902, atol=1e-6)
    assert np.isclose(guidance_scale(272, 273, 16.0, 1.8), 15.998396, atol=1e-6)


def test_guidance_schedules():
    for schedule in ("power_cosine", "linear"):
        scales = [guidance_scale(t, 100, 5.0, 1.0, schedule) for t in range(101)]
        assert scales[0] == 1.0
        assert scales[-1] == pytest.approx(5.0)
        assert scales[50] == pytest.approx(3.0)
        assert scales == sorted(scales)
        assert guidance_scale(50, 100, 5.0, 2.0, schedule) < scales[50]
    assert {guidance_scale(t, 100, 5.0, 1.0, "constant") for t in range(100)} == {5.0}
