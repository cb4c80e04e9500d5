"""Toy models, the same weights in every call."""

import torch

from modeling.alitok.generator import AliTokGenerator, GeneratorConfig
from modeling.alitok.tokenizer import AliTok, AliTokConfig, DecoderConfig, TransformerConfig
from tests.support.toy.sizes import CODEBOOK_SIZE, IMAGE_SIZE, NUM_CLASSES, NUM_CODES, PATCH_SIZE


def tokenizer(stage: int = 2, width: int = 32, init_std: float = 0.02) -> AliTok:
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
    return AliTok(config).eval()


def generator(**changes) -> AliTokGenerator:
    """changes: fields of GeneratorConfig."""
    torch.manual_seed(0)
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_seq_len": NUM_CODES,
        "condition_num_classes": NUM_CLASSES,
        "codebook_size": CODEBOOK_SIZE,
    }
    model = AliTokGenerator(GeneratorConfig(**settings | changes)).eval()
    torch.nn.init.normal_(model.output.weight, std=0.3)  # its initial zeros would hide mistakes
    return model
