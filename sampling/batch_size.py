"""How many images are drawn at a time, if nobody says it."""

import torch

from modeling.interfaces import Generator
from sampling.decoding import DECODERS, DecoderSettings

ON_CPU = 32
LARGEST = 500  # images: where a GPU is busy, larger batches are hardly faster an image, and take longer to finish
SHARE_OF_MEMORY = 0.6  # the rest is for weights' copies, the image decoder and gaps between tensors


def choose_batch_size(
    generator: Generator,
    settings: DecoderSettings,
    precision: str,
    device: torch.device,
    largest: int = LARGEST,
) -> int:
    """Images at a time for this kind of device, at most `largest`, so that batches of one size make `largest` images.

    It depends on the device's whole memory and not on what is free, so that a resumed run has the same batches.
    """
    if device.type != "cuda":
        return min(ON_CPU, largest)
    return even_batch(room_for(generator, settings, precision, device_memory(device)), largest)


def device_memory(device: torch.device) -> int:
    """Bytes."""
    return torch.cuda.get_device_properties(device).total_memory


def room_for(generator: Generator, settings: DecoderSettings, precision: str, memory: int) -> int:
    """Images for which `memory` bytes of a GPU suffice, at least 1."""
    bytes_per_number = 2 if precision == "bf16" else 4
    weights = bytes_per_number * sum(p.numel() for p in generator.parameters())
    image = DECODERS.part_class(generator.decoding).bytes_per_image(generator, settings, bytes_per_number)
    return max(int((SHARE_OF_MEMORY * memory - weights) // image), 1)


def even_batch(room: int, images: int) -> int:
    """The smallest size with which as few batches as `room` allows make `images` images."""
    batches = -(-images // min(room, images))
    return -(-images // batches)
