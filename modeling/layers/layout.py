"""The order in memory of images that convolutions see."""

import torch
from torch import Tensor


def convolution_layout(device_type: str) -> torch.memory_format:
    """Channels last on a GPU, where convolutions in half precision need no transposes then; a CPU gains nothing."""
    return torch.channels_last if device_type == "cuda" else torch.contiguous_format


def for_convolutions(images: Tensor) -> Tensor:
    """images (B, C, H, W) in the layout for their device."""
    return images.contiguous(memory_format=convolution_layout(images.device.type))
