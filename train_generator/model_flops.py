"""The arithmetic of one training step, for model-FLOPs utilisation."""

from torch import nn

from modeling.alitok.generator import AliTokGenerator


def forward_flops(generator: AliTokGenerator) -> int:
    """Operations of the matrix products of one image's forward pass.

    Two per weight of a linear layer and position, and two per score and channel for queries times
    keys and for scores times values. Attention is causal: half of the score matrix is work.
    """
    length = generator.num_codes
    weights = sum(m.weight.numel() for m in generator.modules() if isinstance(m, nn.Linear))
    attention = generator.config.num_hidden_layers * generator.config.hidden_size * length * (length + 1)
    return 2 * weights * length + 2 * attention


def training_flops(generator: AliTokGenerator) -> int:
    """Of one image's forward and backward pass; what activation checkpointing repeats is not counted."""
    return 3 * forward_flops(generator)
