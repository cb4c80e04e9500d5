"""The tokenizer's encoder: image patches and latent tokens in, one latent vector per code out."""

import torch
from torch import Tensor, nn

from modeling.alitok.settings import AliTokConfig
from modeling.layers.run_blocks import run_blocks
from modeling.layers.transformer import Attention, ResidualAttentionBlock, learned_tokens


class Encoder(nn.Module):
    """A ViT in which latent tokens attend to all patches and to each other."""

    def __init__(self, config: AliTokConfig):
        super().__init__()
        sizes = config.encoder
        self.num_latent_tokens = config.layout.num_codes
        self.activation_checkpointing = False
        self.patch_embed = nn.Conv2d(3, sizes.width, config.patch_size, config.patch_size)
        self.positional_embedding = learned_tokens(config.grid_size**2, sizes.width)
        self.latent_token_positional_embedding = learned_tokens(self.num_latent_tokens, sizes.width)
        self.ln_pre = nn.LayerNorm(sizes.width)
        self.transformer = nn.ModuleList(
            ResidualAttentionBlock(sizes.width, Attention(sizes.width, sizes.num_heads), sizes.mlp_ratio)
            for _ in range(sizes.num_layers)
        )
        self.ln_post = nn.LayerNorm(sizes.width)
        self.conv_out = nn.Conv2d(sizes.width, config.token_size, 1)

    @torch.no_grad()
    def start_at_grey(self) -> None:
        """Initialise the bias of the patches so that grey, 0.5, is zero.

        Else all patches of all images begin as nearly the same vector, and what they differ in is lost in it.
        """
        self.patch_embed.bias.copy_(-0.5 * self.patch_embed.weight.sum((1, 2, 3)))

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
