"""Classifiers that cannot be loaded: the error says where the weights go."""

import pytest

from modeling.frozen.imagenet_classifiers import load_classifier
from utils.errors import UserError


def test_unknown_and_missing_networks(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"'convnext_smal' is neither .*did you mean 'convnext_small'"):
        load_classifier("convnext_smal", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError) as caught:
        load_classifier("convnext_small", None)
    message = str(caught.value)
    assert "https://download.pytorch.org/models/convnext_small-" in message
    assert str(tmp_path / "hub" / "checkpoints" / "convnext_small-") in message
    assert "losses.perceptual_checkpoint" in message
    with pytest.raises(UserError, match=r"losses.perceptual_checkpoint: file not found: .*none.pth"):
        load_classifier("convnext_small", str(tmp_path / "none.pth"))
