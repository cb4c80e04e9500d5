"""Numbers of the published code (tests/parity/README.md) and the agreement to expect with them."""

import json

import numpy as np
from torch import nn

from tests.support.paths import ROOT

PARITY = ROOT / "tests" / "parity"


def published_shapes(model: str) -> dict[str, list[int]]:
    """Every key and shape of a published state dict, e.g. of "AliTok.pth", "stage1" or "maskgit_vqgan"."""
    files = (PARITY / name for name in ("state_dict_keys.json", "state_dict_keys_1d.json"))
    return next(found[model] for file in files if model in (found := json.loads(file.read_text())["state_dicts"]))


def shapes(model: nn.Module) -> dict[str, list[int]]:
    """Every key and shape of this model's state dict."""
    return {key: list(value.shape) for key, value in model.state_dict().items()}


def assert_close(actual, expected, tolerance: float = 1e-4) -> None:
    """max |a - b| <= tolerance * max |b|, the agreement that the fixtures' README states."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()
