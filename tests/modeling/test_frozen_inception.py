"""ADM's Inception: features and preprocessing are those of the original graph."""

import numpy as np
import pytest
import torch

from modeling.frozen.inception import Inception
from tests.support.inception import random_state


@pytest.fixture(scope="module")
def inception() -> Inception:
    return Inception(random_state(), "random weights")


def test_spatial_features_and_logits_are_adms(inception):
    images = torch.randint(0, 256, (1, 3, 30, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    kept = []
    network = inception.network
    hook = network.Mixed_6d.branch1x1.register_forward_hook(lambda _m, _i, output: kept.append(output))
    pool, spatial, logits = inception(images)
    hook.remove()
    assert torch.equal(spatial.view(17, 17, 7), kept[0][0, :7].permute(1, 2, 0))
    torch.testing.assert_close(logits, pool @ network.fc.weight.T)  # no bias


@pytest.mark.parametrize("size", [(13, 40), (299, 299), (256, 301)])
def test_resize_and_scaling_are_tensorflows(inception, size):
    """TF1's bilinear: source coordinate = output index * (in / out), no half-pixel centres, edges clamped."""
    seen = []
    hook = inception.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    inception(torch.from_numpy(image).permute(2, 0, 1)[None])
    hook.remove()
    x = image.astype(np.float64)
    for axis, length in enumerate(size):
        at = np.arange(299) * (length / 299)
        low = np.floor(at).astype(int)
        high, share = np.minimum(low + 1, length - 1), at - low
        shape = [299 if i == axis else 1 for i in range(3)]
        x = x.take(low, axis) * (1 - share.reshape(shape)) + x.take(high, axis) * share.reshape(shape)
    expected = (x - 128) / 128
    np.testing.assert_allclose(seen[0][0].permute(1, 2, 0).numpy(), expected, atol=2e-4)
