"""Autocast and its default."""

import pytest
import torch

from modeling.layers.precision import PRECISIONS, autocast, default_precision


def test_autocast_decides_the_type_of_products():
    x = torch.ones(2, 2)
    types = {}
    for precision in PRECISIONS:
        with autocast("cpu", precision):
            types[precision] = (x @ x).dtype
    assert types == {"fp32": torch.float32, "bf16": torch.bfloat16}
    with pytest.raises(ValueError, match="precision is 'fp8'; choose fp32 or bf16"):
        autocast("cpu", "fp8")


def test_half_precision_is_for_gpus():
    assert default_precision("cpu") == "fp32"
    assert default_precision(torch.device("cuda", 1)) == "bf16"
