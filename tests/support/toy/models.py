"""Toy models, the same weights in every call."""

from dataclasses import replace

import torch

from modeling.alitok.generator import AliTokGenerator, GeneratorConfig
from modeling.alitok.settings import AliTokConfig, DecoderConfig, TransformerConfig
from modeling.alitok.tokenizer import AliTok
from modeling.interfaces import CodeLayout
from modeling.maskgit_vq.settings import MaskGITVQConfig
from modeling.maskgit_vq.tokenizer import MaskGITVQ
from tests.parity.deterministic import fill
from tests.support.toy.configs import MASKGIT_VQ
from tests.support.toy.sizes import CODEBOOK_SIZE, IMAGE_SIZE, NUM_CLASSES, NUM_CODES, PATCH_SIZE

GRID = IMAGE_SIZE // PATCH_SIZE
LAYOUT = CodeLayout(CODEBOOK_SIZE, NUM_CODES, GRID + 1, (GRID, GRID))


def tokenizer(stage: int = 2, width: int = 32, init_std: float | None = 0.02, **changes) -> AliTok:
    """changes: fields of AliTokConfig."""
    torch.manual_seed(0)
    decoder = DecoderConfig(width, 2, 2, num_learned_tokens=4)
    if stage == 1:
        decoder = DecoderConfig(width, 2, 2, causal=True, num_learned_tokens=1, prefix_head=True)
    config = AliTokConfig(
        codebook_size=CODEBOOK_SIZE,
        token_size=8,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        encoder=TransformerConfig(width, 2, 2),
        decoder=decoder,
        init_std=init_std,
    )
    return AliTok(replace(config, **changes)).eval()


def maskgit_vq() -> MaskGITVQ:
    """With weights large enough for codes that depend on the image."""
    model = MaskGITVQ(MaskGITVQConfig(**MASKGIT_VQ)).eval()
    fill(model)
    return model


def generator(**changes) -> AliTokGenerator:
    """changes: fields of GeneratorConfig."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "condition_num_classes": NUM_CLASSES,
    }
    model = AliTokGenerator(GeneratorConfig(**settings | changes), LAYOUT).eval()
    torch.nn.init.normal_(model.output.weight, std=0.3)  # its initial zeros would hide mistakes
    return model
