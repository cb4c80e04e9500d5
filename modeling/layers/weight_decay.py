"""Which weights the published trainings of RAR and TiTok decay."""

from torch import Tensor

NO_DECAY = ("ln", "bias", "latent_tokens", "mask_token", "embedding", "norm", "gamma", "embed")


def decays_by_name(name: str, parameter: Tensor) -> bool:
    """Whether it is a matrix without a word of `NO_DECAY` in its name."""
    return parameter.ndim >= 2 and not any(word in name for word in NO_DECAY)
