"""AliTok's tokenizer: encoder, quantizer, decoder, and the losses of its own."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.alitok.decoder import Decoder
from modeling.alitok.encoder import Encoder
from modeling.alitok.settings import AliTokConfig
from modeling.interfaces import TOKENIZERS, LossTerm, PerceptualPicture, TokenizerOutput
from modeling.layers.quantizer import VectorQuantizer
from modeling.layers.quantizer_start import QuantizerStart
from modeling.layers.transformer import init_weights, learned_tokens
from utils.weights import load_strict


@TOKENIZERS.register("alitok", AliTokConfig)
class AliTok(nn.Module):
    """The image tokenizer of "AliTok: Towards Sequence Modeling Alignment between Tokenizer and
    Autoregressive Model": each code depends only on the codes to its left."""

    # The usage statistics of codebook clustering, which the published AliTok.pth lacks, and how training began.
    optional_keys = ("quantize.embed_prob", "quantizer_start.strength", "quantizer_start.average")
    variants = {
        "decoder.ffn_aux.": "a stage-1 AliTok with a prefix head (decoder.prefix_head=true)",
        "decoder.": "an AliTok without a prefix head (decoder.prefix_head=false), as stage 2 makes it",
    }
    trainable = True
    code_keys = ("encoder.", "quantize.", "latent_tokens")

    def __init__(self, config: AliTokConfig):
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.layout = config.layout
        if config.decoder.prefix_head and not self.layout.num_prefix:
            raise ValueError("decoder.prefix_head needs prefix tokens")
        self.latent_tokens = learned_tokens(self.layout.num_codes, config.encoder.width)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = VectorQuantizer(config.codebook_size, config.token_size)
        self.quantizer_start = QuantizerStart(config.quantizer_start_steps) if config.quantizer_start_steps else None
        self.apply(partial(init_weights, std=config.init_std))
        if config.init_std is None:
            self.encoder.start_at_grey()

    def forward(self, images: Tensor) -> TokenizerOutput:
        """images: (B, 3, H, W) in [0, 1]. The reconstruction is in [0, 1]."""
        z = self.encoder(images, self.latent_tokens)
        quantized, quantizer_loss, _ = self.quantize(z)
        learns = quantizer_loss.requires_grad  # false where encoder and codebook are frozen
        quantizer_weight = self.config.quantizer_weight
        start = self.quantizer_start if self.training and learns else None
        if start is not None:
            quantizer_weight = quantizer_weight * start.strength
            quantized = torch.lerp(z.type_as(quantized), quantized, start.strength)
        reconstruction, prefix_image = self.decoder(quantized)
        if start is not None:
            start.collect(images, reconstruction)
        losses = {"reconstruction": LossTerm(F.mse_loss(reconstruction, images), 1.0)}
        pictures: dict[str, PerceptualPicture] = {}
        if prefix_image is not None:
            # Weighted by the prefix's share of all patches.
            weight = self.config.prefix_weight * self.layout.num_prefix / self.config.grid_size**2
            losses["prefix"] = LossTerm(F.mse_loss(prefix_image, self.prefix_target(images)), weight)
            if self.config.prefix_perceptual_weight:
                picture = self.with_prefix_row(reconstruction, prefix_image)
                pictures["prefix"] = PerceptualPicture(picture, self.config.prefix_perceptual_weight)
        if learns:
            losses["quantizer"] = LossTerm(quantizer_loss, quantizer_weight)
        return TokenizerOutput(losses, reconstruction, pictures)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [0, 1] -> codes (B, T) int64."""
        return self.quantize.assign(self.encoder(images, self.latent_tokens))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes: (B, T) int64 in [0, codebook_size) -> images (B, 3, H, W) in [0, 1]."""
        return self.decoder(self.quantize.lookup(codes))[0]

    def prefix_target(self, images: Tensor) -> Tensor:
        """The row of patches that the prefix head draws: the image's first row.

        The released tokenizer has one prefix code more than the row has patches, and draws the top-left patch twice.

        images: (B, 3, H, W) -> (B, 3, P, A * P) with patch size P and A prefix codes.
        """
        p, first_row = self.config.patch_size, images[:, :, : self.config.patch_size]
        surplus = self.layout.num_prefix - self.config.grid_size
        return torch.cat([first_row[..., : surplus * p], first_row], dim=-1)

    def with_prefix_row(self, reconstruction: Tensor, prefix_image: Tensor) -> Tensor:
        """The first row as the prefix codes draw it, above the other rows as the image codes draw them.

        Those rows are detached, so with a causal decoder a loss on the result reaches the prefix codes only.

        reconstruction: (B, 3, H, W), prefix_image: (B, 3, P, A * P) -> (B, 3, H, W).
        """
        others = reconstruction[:, :, self.config.patch_size :].detach()
        return torch.cat([prefix_image[..., -self.image_size :], others], dim=2)

    # -- for training: modeling.interfaces.TrainableTokenizer -----------------------------------------

    @property
    def trunks(self) -> tuple[nn.Module, nn.Module]:
        return self.encoder, self.decoder

    def load_earlier_stage(self, state: dict[str, Tensor], source: Any) -> None:
        """Stage 2 takes encoder, codebook and latent tokens of a stage-1 tokenizer, but not its decoder."""
        load_strict(self, state, source, optional=self.optional_keys, prefixes=self.code_keys)

    def decays(self, name: str, parameter: Tensor) -> bool:
        """Every parameter, as published."""
        return True

    def begin_step(self, phase: Any) -> None:
        learns = self.quantize.embedding.weight.requires_grad
        self.quantize.clustering = phase.clustering and learns
        self.quantize.discard_collected()
        if self.quantizer_start is not None:
            self.quantizer_start.discard_collected()

    def before_update(self) -> None:
        self.quantize.update_codebook()
        if self.quantizer_start is not None:
            self.quantizer_start.update()

    def log_values(self) -> dict[str, Tensor]:
        usage = {"codebook_usage": self.quantize.recent_usage()} if self.quantize.clustering else {}
        start = self.quantizer_start
        return usage if start is None else {**usage, "quantization": start.strength}

    def replicated_state(self) -> Tensor:
        return self.quantize.embedding.weight
