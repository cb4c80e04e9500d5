"""TiTok's tokenizer at toy size: 32x32 pixels, 6 codes of 32 or latents of 8 numbers."""

from typing import Any

import torch
from torch import nn

from modeling.layers.transformer import TransformerConfig
from modeling.titok.settings import TiTokConfig
from modeling.titok.tokenizer import TiTok
from tests.support.toy.configs import MASKGIT_VQ

SIZES = {"width": 32, "num_layers": 2, "num_heads": 2}
COMMON = {
    "name": "titok",
    "codebook_size": 32,
    "token_size": 8,
    "num_latent_tokens": 6,
    "image_size": 32,
    "vit_enc_model_size": "custom",
    "vit_dec_model_size": "custom",
    "vit_enc_patch_size": 8,
    "vit_dec_patch_size": 4,  # as many patches as the toy MaskGIT-VQ has codes
    "encoder": SIZES,
    "decoder": SIZES,
    "init_std": 0.1,
}
PROXY = {key: value for key, value in MASKGIT_VQ.items() if key not in ("name", "image_size")}
VARIANTS = {
    "single_stage": {"use_l2_norm": False, "is_legacy": False, "finetune_decoder": False},
    "vae": {"quantize_mode": "vae", "is_legacy": False, "finetune_decoder": False},
    "stage1": {"is_legacy": True, "finetune_decoder": False, "proxy": PROXY},
    "stage2": {"is_legacy": True, "finetune_decoder": True, "proxy": PROXY},
}


def titok_section(variant: str, **changes: Any) -> dict[str, Any]:
    """`model.vq_model` of a variant."""
    return {**COMMON, **VARIANTS[variant], **changes}


def titok_config(variant: str, **changes: Any) -> TiTokConfig:
    sizes = {part: TransformerConfig(**SIZES) for part in ("encoder", "decoder")}
    return TiTokConfig(**titok_section(variant, **{**sizes, **changes}))


def titok(variant: str, **changes: Any) -> TiTok:
    """The same weights in every call, large enough for codes that depend on the image."""
    torch.manual_seed(0)
    model = TiTok(titok_config(variant, **changes)).eval()
    if model.layout is not None:
        nn.init.normal_(model.quantize.embedding.weight)
    return model
