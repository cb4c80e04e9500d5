"""Settings of sampling."""

import pytest

from sampling.settings import SamplingSettings


@pytest.mark.parametrize(
    "wrong", [{"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"temperature": -1.0}, {"guidance_schedule": "cosine"}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingSettings(**wrong)


def test_a_scale_of_zero_or_one_means_no_guidance():
    assert SamplingSettings(0.0).scales(7) is None
    assert SamplingSettings(1.0).scales(7) is None
    assert SamplingSettings(2.0).scales(7)
