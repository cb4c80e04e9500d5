"""The tokenizer's decoder: one class, causal for stage 1 and bidirectional for stage 2."""

import torch
from einops import rearrange
from torch import Tensor, nn

from modeling.alitok.settings import AliTokConfig
from modeling.layers.precision import at_least_float32
from modeling.layers.run_blocks import run_blocks
from modeling.layers.transformer import Attention, ResidualAttentionBlock, learned_tokens


class Decoder(nn.Module):
    """Quantized latents in, pixels out.

    The sequence is [learned tokens, prefix codes, image codes]. With `causal` attention the patch
    at raster position i depends only on the prefix codes and on image codes 0..i.
    With `prefix_head` the prefix positions are drawn too, as one row of patches: this teaches the
    prefix codes the start of the image.
    """

    def __init__(self, config: AliTokConfig):
        super().__init__()
        sizes = config.decoder
        self.grid_size = config.grid_size
        self.patch_size = config.patch_size
        self.num_learned_tokens = sizes.num_learned_tokens
        self.num_prefix_tokens = config.layout.num_prefix
        self.prefix_head = sizes.prefix_head
        self.activation_checkpointing = False
        self.decoder_embed = nn.Linear(config.token_size, sizes.width)
        self.class_embedding = learned_tokens(sizes.num_learned_tokens, sizes.width)
        length = sizes.num_learned_tokens + config.layout.num_codes
        self.latent_token_positional_embedding = learned_tokens(length, sizes.width)
        self.ln_pre = nn.LayerNorm(sizes.width)
        self.transformer = nn.ModuleList(
            ResidualAttentionBlock(sizes.width, Attention(sizes.width, sizes.num_heads, sizes.causal), sizes.mlp_ratio)
            for _ in range(sizes.num_layers)
        )
        self.ln_post = nn.LayerNorm(sizes.width)
        # A Sequential of one, because the published key is `ffn.0.weight`.
        self.ffn = nn.Sequential(nn.Conv2d(sizes.width, 3 * config.patch_size**2, 1))
        self.conv_out = nn.Conv2d(3, 3, 1)
        if sizes.prefix_head:
            self.ffn_aux = nn.Sequential(nn.Conv2d(sizes.width, 3 * config.patch_size**2, 1))
            self.conv_out_aux = nn.Conv2d(3, 3, 1)

    def _to_pixels(self, x: Tensor, rows: int, ffn: nn.Module, conv_out: nn.Module) -> Tensor:
        x = rearrange(x, "b (h w) d -> b d h w", h=rows)
        p = self.patch_size
        x = rearrange(ffn(x), "b (p1 p2 c) h w -> b c (h p1) (w p2)", p1=p, p2=p)
        return torch.sigmoid(at_least_float32(conv_out(x)))  # bfloat16 would round pixels to 1/256

    def forward(self, quantized: Tensor) -> tuple[Tensor, Tensor | None]:
        """Decode.

        quantized: (B, token_size, 1, T).
        Returns images (B, 3, H, W) in [0, 1] and, with a prefix head, the prefix image
        (B, 3, patch_size, num_prefix_tokens * patch_size) in [0, 1], else None.
        """
        x = self.decoder_embed(quantized.squeeze(2).transpose(1, 2))
        learned = self.class_embedding.expand(x.shape[0], -1, -1).to(x.dtype)
        x = torch.cat([learned, x], dim=1) + self.latent_token_positional_embedding
        x = self.ln_pre(x)
        x = run_blocks(self.transformer, x, recompute=self.activation_checkpointing)
        x = self.ln_post(x)
        prefix_end = self.num_learned_tokens + self.num_prefix_tokens
        images = self._to_pixels(x[:, prefix_end:], self.grid_size, self.ffn, self.conv_out)
        if not self.prefix_head:
            return images, None
        prefix = x[:, self.num_learned_tokens : prefix_end]
        return images, self._to_pixels(prefix, 1, self.ffn_aux, self.conv_out_aux)
