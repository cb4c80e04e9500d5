"""Channels last on a GPU, and only there."""

import torch

from benchmarks.training_memory import pretended_cuda
from modeling.layers.layout import for_convolutions
from train_tokenizer.discriminator import Discriminator


def test_images_have_their_channels_last_on_a_gpu():
    images = torch.rand(2, 3, 8, 8)
    assert for_convolutions(images) is images
    with pretended_cuda("no"):
        moved = for_convolutions(torch.zeros(2, 3, 8, 8, device="cuda"))
        assert moved.is_contiguous(memory_format=torch.channels_last)


def test_the_discriminator_computes_in_the_layout_of_its_images():
    """Its weights keep theirs, which the optimizer's state shares."""
    model, seen = Discriminator(), []
    model.block_in[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    model(images)
    assert seen[0].is_contiguous()
    assert all(p.is_contiguous() for p in model.parameters())
