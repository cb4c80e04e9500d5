"""Which parameters weight decay applies to, for the families of the published 1d-tokenizer code."""

from torch import Tensor

EXEMPT = ("ln", "bias", "latent_tokens", "mask_token", "embedding", "norm", "gamma", "embed")


def decays_by_name(name: str, parameter: Tensor) -> bool:
    """Not those of fewer than 2 dimensions, and not those with one of these words in their names, case-sensitive."""
    return parameter.ndim >= 2 and not any(word in name for word in EXEMPT)
