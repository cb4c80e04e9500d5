"""The blocks of TiTok's encoder and decoder."""

from torch import nn

from modeling.layers.transformer import ResidualAttentionBlock, TorchNamedAttention, TransformerConfig


def make_blocks(sizes: TransformerConfig) -> nn.ModuleList:
    return nn.ModuleList(
        ResidualAttentionBlock(sizes.width, TorchNamedAttention(sizes.width, sizes.num_heads), sizes.mlp_ratio)
        for _ in range(sizes.num_layers)
    )
