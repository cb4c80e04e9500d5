"""The discriminator against numbers of the published code (tests/parity/README.md)."""

import torch

from tests.parity.deterministic import fill, image
from tests.support.parity import assert_close, published_shapes, shapes
from train_tokenizer.discriminator import Discriminator


@torch.no_grad()
def test_discriminator_matches(parity):
    expected = parity("discriminator")
    model = Discriminator().eval()
    assert shapes(model) == published_shapes("discriminator")
    assert sum(p.numel() for p in model.parameters()) == 1_909_889
    fill(model)
    assert_close(model(torch.from_numpy(image("disc-image", 256))), expected["logits"])
    assert_close(model(torch.from_numpy(image("disc-image-small", 36))), expected["logits_small"])
