"""The tokenizer's encoder: image patches and latent tokens in, one latent vector per code out."""

import torch
from torch import Tensor, nn

from modeling.layers.run_blocks import run_blocks
from modeling.layers.transformer import ResidualAttentionBlock, learned_tokens


class Encoder(nn.Module):
    """A ViT whose latent tokens attend to all patches and to each other."""

    def __init__(
        self,
        *,
        grid_size: int,
        patch_size: int,
        num_latent_tokens: int,
        token_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
    ):
        super().__init__()
        self.num_latent_tokens = num_latent_tokens
        self.activation_checkpointing = False
        self.patch_embed = nn.Conv2d(3, width, patch_size, patch_size)
        self.positional_embedding = learned_tokens(grid_size**2, width)
        self.latent_token_positional_embedding = learned_tokens(num_latent_tokens, width)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(ResidualAttentionBlock(width, num_heads, mlp_ratio) for _ in range(num_layers))
        self.ln_post = nn.LayerNorm(width)
        self.conv_out = nn.Conv2d(width, token_size, 1)

    def forward(self, images: Tensor, latent_tokens: Tensor) -> Tensor:
        """Encode.

        images: (B, 3, H, W) in [0, 1]; latent_tokens: (T, width), held by the whole model.
        Returns z: (B, token_size, 1, T).
        """
        patches = self.patch_embed(images).flatten(2).transpose(1, 2) + self.positional_embedding
        latents = latent_tokens + self.latent_token_positional_embedding
        latents = latents.expand(images.shape[0], -1, -1)
        x = self.ln_pre(torch.cat([patches, latents.to(patches.dtype)], dim=1))
        x = run_blocks(self.transformer, x, recompute=self.activation_checkpointing)
        x = self.ln_post(x[:, -self.num_latent_tokens :])
        return self.conv_out(x.transpose(1, 2).unsqueeze(2))
