"""TiTok's decoder: quantized latents in, pixels or logits of proxy codes out."""

import torch
from einops import rearrange
from torch import Tensor, nn

from modeling.layers.precision import at_least_float32, autocast
from modeling.layers.run_blocks import run_blocks
from modeling.layers.transformer import learned_tokens
from modeling.titok.blocks import make_blocks
from modeling.titok.settings import TiTokConfig


class Decoder(nn.Module):
    """A ViT with full attention over [class token, a mask token for each patch, latent tokens]."""

    def __init__(self, config: TiTokConfig, num_proxy_codes: int | None):
        """num_proxy_codes: size of the codebook that the decoder predicts; None: it draws pixels."""
        super().__init__()
        sizes = config.decoder_sizes
        self.patch_size = config.vit_dec_patch_size
        self.grid_size = config.image_size // self.patch_size
        self.draws_pixels = num_proxy_codes is None
        self.activation_checkpointing = False
        self.decoder_embed = nn.Linear(config.token_size, sizes.width)
        self.class_embedding = learned_tokens(1, sizes.width)
        self.positional_embedding = learned_tokens(self.grid_size**2 + 1, sizes.width)
        self.mask_token = nn.Parameter(learned_tokens(1, sizes.width)[None])
        self.latent_token_positional_embedding = learned_tokens(config.num_latent_tokens, sizes.width)
        self.ln_pre = nn.LayerNorm(sizes.width)
        self.transformer = make_blocks(sizes)
        self.ln_post = nn.LayerNorm(sizes.width)
        if self.draws_pixels:
            # A Sequential of one, because the published key is `ffn.0.weight`.
            self.ffn = nn.Sequential(nn.Conv2d(sizes.width, 3 * self.patch_size**2, 1))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)
        else:
            hidden = 2 * sizes.width
            self.ffn = nn.Sequential(
                nn.Conv2d(sizes.width, hidden, 1), nn.Tanh(), nn.Conv2d(hidden, num_proxy_codes, 1)
            )

    def forward(self, quantized: Tensor) -> Tensor:
        """Decode.

        quantized: (B, token_size, 1, T).
        Returns images (B, 3, H, W), for values in [0, 1] but not clamped to them, or the logits of the
        proxy codes (B, num_proxy_codes, grid, grid).
        """
        latents = self.decoder_embed(quantized.squeeze(2).transpose(1, 2)) + self.latent_token_positional_embedding
        masks = self.mask_token[0].expand(self.grid_size**2, -1)
        places = torch.cat([self.class_embedding, masks]) + self.positional_embedding
        x = torch.cat([places.expand(len(latents), -1, -1).to(latents.dtype), latents], dim=1)
        x = run_blocks(self.transformer, self.ln_pre(x), recompute=self.activation_checkpointing)
        x = self.ln_post(x[:, 1 : 1 + self.grid_size**2])
        x = self.ffn(rearrange(x, "b (h w) d -> b d h w", h=self.grid_size))
        if not self.draws_pixels:
            return x
        p = self.patch_size
        x = rearrange(x, "b (p1 p2 c) h w -> b c (h p1) (w p2)", p1=p, p2=p)
        with autocast(x.device, "fp32"):  # bfloat16 would round pixels to 1/256
            return self.conv_out(at_least_float32(x))
