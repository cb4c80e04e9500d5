"""AliTok's tokenizer: encoder, quantizer and decoder, all sizes derived from one configuration."""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from modeling.alitok.decoder import Decoder
from modeling.alitok.encoder import Encoder
from modeling.interfaces import TOKENIZERS
from modeling.layers.quantizer import VectorQuantizer
from modeling.layers.transformer import init_weights, learned_tokens


@dataclass
class TransformerConfig:
    width: int
    num_layers: int
    num_heads: int
    mlp_ratio: float = 4.0


@dataclass
class DecoderConfig(TransformerConfig):
    causal: bool = False
    num_learned_tokens: int = 32
    prefix_head: bool = False


@dataclass
class AliTokConfig:
    """Sizes of the tokenizer; the defaults are those of the published final tokenizer."""

    name: str = "alitok"
    codebook_size: int = 4096
    token_size: int = 32
    num_latent_tokens: int | None = None  # derived from image and patch size
    image_size: int = 256
    patch_size: int = 16
    init_std: float = 0.02
    encoder: TransformerConfig = field(default_factory=lambda: TransformerConfig(768, 12, 12))
    decoder: DecoderConfig = field(default_factory=lambda: DecoderConfig(1024, 24, 16))


@dataclass
class TokenizerOutput:
    """What a training step needs from one pass through the tokenizer."""

    reconstruction: Tensor  # (B, 3, H, W) in [0, 1]
    prefix_image: Tensor | None  # (B, 3, P, A * P) in [0, 1]; None without a prefix head
    quantizer_loss: Tensor  # scalar
    codes: Tensor  # (B, T) int64


@TOKENIZERS.register("alitok", AliTokConfig)
class AliTok(nn.Module):
    """The image tokenizer of "AliTok: Towards Sequence Modeling Alignment between Tokenizer and
    Autoregressive Model": codes that depend on each other from left to right only."""

    def __init__(self, config: AliTokConfig):
        super().__init__()
        if config.image_size % config.patch_size:
            raise ValueError(f"image_size {config.image_size} is not a multiple of patch_size {config.patch_size}")
        grid_size = config.image_size // config.patch_size
        without_prefix = grid_size**2
        with_prefix = without_prefix + grid_size + 1
        num_codes = config.num_latent_tokens or with_prefix
        if num_codes not in (without_prefix, with_prefix):
            raise ValueError(
                f"num_latent_tokens is {num_codes}, but {grid_size}x{grid_size} patches make"
                f" {with_prefix} codes with prefix tokens or {without_prefix} without"
            )
        num_prefix_tokens = num_codes - without_prefix
        if config.decoder.prefix_head and not num_prefix_tokens:
            raise ValueError("decoder.prefix_head needs prefix tokens")
        self.config = config
        self.image_size = config.image_size
        self.patch_size = config.patch_size
        self.grid_size = grid_size
        self.num_prefix_tokens = num_prefix_tokens
        self.num_codes = num_codes
        self.codebook_size = config.codebook_size

        enc, dec = config.encoder, config.decoder
        self.latent_tokens = learned_tokens(self.num_codes, enc.width)
        self.encoder = Encoder(
            grid_size=grid_size,
            patch_size=config.patch_size,
            num_latent_tokens=self.num_codes,
            token_size=config.token_size,
            width=enc.width,
            num_layers=enc.num_layers,
            num_heads=enc.num_heads,
            mlp_ratio=enc.mlp_ratio,
        )
        self.decoder = Decoder(
            grid_size=grid_size,
            patch_size=config.patch_size,
            num_prefix_tokens=num_prefix_tokens,
            num_learned_tokens=dec.num_learned_tokens,
            token_size=config.token_size,
            width=dec.width,
            num_layers=dec.num_layers,
            num_heads=dec.num_heads,
            mlp_ratio=dec.mlp_ratio,
            causal=dec.causal,
            prefix_head=dec.prefix_head,
        )
        self.quantize = VectorQuantizer(config.codebook_size, config.token_size)
        self.apply(partial(init_weights, std=config.init_std))

    def forward(self, images: Tensor) -> TokenizerOutput:
        """images: (B, 3, H, W) in [0, 1]."""
        z = self.encoder(images, self.latent_tokens)
        quantized, loss, codes = self.quantize(z)
        reconstruction, prefix_image = self.decoder(quantized)
        return TokenizerOutput(reconstruction, prefix_image, loss, codes)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [0, 1] -> codes (B, T) int64."""
        return self.quantize.assign(self.encoder(images, self.latent_tokens))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes: (B, T) int64 in [0, codebook_size) -> images (B, 3, H, W) in [0, 1]."""
        return self.decoder(self.quantize.lookup(codes))[0]

    def prefix_target(self, images: Tensor) -> Tensor:
        """The row of patches that the prefix head draws: the top-left patch, then the first row.

        images: (B, 3, H, W) -> (B, 3, P, A * P).
        """
        p = self.patch_size
        return torch.cat([images[:, :, :p, :p], images[:, :, :p]], dim=-1)

    def freeze_encoder(self) -> None:
        """Stage 2: everything that decides the codes stops learning."""
        self.latent_tokens.requires_grad_(False)
        for part in (self.encoder, self.quantize):
            part.requires_grad_(False)
