"""TiTok's encoder: image patches and latent tokens in, one latent vector per latent token out."""

import torch
from torch import Tensor, nn

from modeling.layers.run_blocks import run_blocks
from modeling.layers.transformer import learned_tokens
from modeling.titok.blocks import make_blocks
from modeling.titok.settings import TiTokConfig


class Encoder(nn.Module):
    """A ViT with full attention over [class token, patches, latent tokens]."""

    def __init__(self, config: TiTokConfig):
        super().__init__()
        sizes, patch_size = config.encoder_sizes, config.vit_enc_patch_size
        self.is_legacy = config.is_legacy
        self.num_latent_tokens = config.num_latent_tokens
        self.activation_checkpointing = False
        self.patch_embed = nn.Conv2d(3, sizes.width, patch_size, patch_size)
        self.class_embedding = learned_tokens(1, sizes.width)
        self.positional_embedding = learned_tokens((config.image_size // patch_size) ** 2 + 1, sizes.width)
        self.latent_token_positional_embedding = learned_tokens(config.num_latent_tokens, sizes.width)
        self.ln_pre = nn.LayerNorm(sizes.width)
        self.transformer = make_blocks(sizes)
        self.ln_post = nn.LayerNorm(sizes.width)
        means_and_variances = 2 if config.quantize_mode == "vae" else 1
        self.conv_out = nn.Conv2d(sizes.width, means_and_variances * config.token_size, 1)

    def forward(self, images: Tensor, latent_tokens: Tensor) -> Tensor:
        """Encode.

        images: (B, 3, H, W) in [0, 1]; latent_tokens: (T, width), held by the whole model.
        Returns (B, token_size, 1, T), or (B, 2 token_size, 1, T) for Gaussian latents.
        """
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        batch, _, width = x.shape
        class_token = self.class_embedding.expand(batch, -1, -1).to(x.dtype)
        x = torch.cat([class_token, x], dim=1) + self.positional_embedding
        latents = latent_tokens + self.latent_token_positional_embedding
        x = self.ln_pre(torch.cat([x, latents.expand(batch, -1, -1).to(x.dtype)], dim=1))
        x = run_blocks(self.transformer, x, recompute=self.activation_checkpointing)
        x = self.ln_post(x[:, -self.num_latent_tokens :])
        # The published two-stage models read the (T, width) numbers in memory order as (width, T).
        x = x.reshape(batch, width, -1) if self.is_legacy else x.transpose(1, 2)
        return self.conv_out(x.unsqueeze(2))
