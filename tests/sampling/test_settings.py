"""How codes are drawn: settings out of range are refused."""

import pytest

from sampling.autoregressive import SamplingSettings


@pytest.mark.parametrize(
    "wrong", [{"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"temperature": -1.0}, {"guidance_schedule": "cosine"}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingSettings(**wrong)
