"""Settings of AliTok's tokenizer. The defaults are those of the published final tokenizer (stage 2)."""

from dataclasses import dataclass

from modeling.interfaces import CodeLayout
from modeling.layers.transformer import TransformerConfig
from utils.config import option, section


@dataclass
class DecoderConfig(TransformerConfig):
    width: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    causal: bool = option(False, "true for stage 1: a code can only explain what comes after it")
    num_learned_tokens: int = option(
        32, "class token of stage 1 (1), buffer tokens of stage 2 (released: 32, version 3: 64)", min=1
    )
    prefix_head: bool = option(False, "true for stage 1: draw the first row of patches from the prefix codes too")


@dataclass
class AliTokConfig:
    name: str = option("alitok", "registered tokenizer")
    codebook_size: int = option(4096, "number of different codes", min=1)
    token_size: int = option(32, "width of a code's vector", min=1)
    num_latent_tokens: int | None = option(
        None, "codes an image: grid^2, and a prefix of grid + 1 (released), of grid (version 3) or none; null: grid + 1"
    )
    image_size: int = option(256, "side of the images in pixels", min=1)
    patch_size: int = option(16, "side of the patches in pixels; grid = image_size / patch_size", min=1)
    init_std: float | None = option(
        0.02,
        "spread of the initial weights, as published; null: each layer's by its number of inputs, and grey begins as"
        " zero: small models start sooner",
        above=0,
    )
    quantizer_start_steps: int = option(
        0,
        "training: quantization and its loss grow with what the decoder draws, and are full after this many steps at"
        " the latest; 0: full from the first step, as published",
        min=0,
    )
    quantizer_weight: float = option(1.0, "training: weight of the quantizer's loss", min=0)
    prefix_weight: float = option(
        10.0, "training: weight of the prefix image's error, times prefix codes / image codes", min=0
    )
    prefix_perceptual_weight: float = option(
        0.0,
        "training: weight of the phase's perceptual losses on the image with its first row drawn from the prefix codes;"
        " version 3 has this loss, the released tokenizer has not",
        min=0,
    )
    encoder: TransformerConfig = section(TransformerConfig)
    decoder: DecoderConfig = section(DecoderConfig)

    @property
    def grid_size(self) -> int:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        return self.image_size // self.patch_size

    @property
    def layout(self) -> CodeLayout:
        """Raises ValueError for sizes that do not fit together."""
        grid = self.grid_size
        num_codes = self.num_latent_tokens or grid**2 + grid + 1
        num_prefix = num_codes - grid**2
        if num_prefix not in (0, grid, grid + 1):
            raise ValueError(
                f"num_latent_tokens is {num_codes}, but {grid}x{grid} patches make"
                f" {grid**2 + grid + 1} codes with prefix tokens ({grid**2 + grid} as version 3 has them)"
                f" or {grid**2} without"
            )
        return CodeLayout(self.codebook_size, num_codes, num_prefix, (grid, grid))
