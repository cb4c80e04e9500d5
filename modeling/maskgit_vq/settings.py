"""Settings of MaskGIT-VQ. The defaults are those of the published weights."""

from dataclasses import dataclass

from modeling.interfaces import CodeLayout
from utils.config import option


@dataclass
class MaskGITVQConfig:
    name: str = option("maskgit_vq", "registered tokenizer")
    codebook_size: int = option(1024, "number of different codes", min=1)
    token_size: int = option(256, "width of a code's vector", min=1)
    num_latent_tokens: int | None = option(None, "codes an image: grid^2; null: follows from the sizes")
    image_size: int = option(256, "side of the images in pixels", min=1)
    channels: int = option(128, "channels before the first level, a multiple of 32", min=32)
    channel_multipliers: list[int] = option(
        [1, 1, 2, 2, 4], "channels of each level over `channels`; grid = image_size / 2^(levels - 1)", min=1
    )

    @property
    def level_channels(self) -> list[int]:
        """Channels of each level, that of the pixels first."""
        return [self.channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def layout(self) -> CodeLayout:
        """Raises ValueError for sizes that do not fit together."""
        if not self.channel_multipliers:
            raise ValueError("channel_multipliers is empty")
        reduction = 2 ** (len(self.channel_multipliers) - 1)
        if self.image_size % reduction:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of {reduction}, by which"
                f" {len(self.channel_multipliers)} levels reduce it"
            )
        grid = self.image_size // reduction
        if self.num_latent_tokens not in (None, grid**2):
            raise ValueError(f"num_latent_tokens is {self.num_latent_tokens}, a grid of {grid}x{grid} has {grid**2}")
        return CodeLayout(self.codebook_size, grid**2, grid=(grid, grid))
