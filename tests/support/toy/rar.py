"""RAR's generator at toy size."""

import torch

from modeling.rar.generator import RARGenerator
from modeling.rar.settings import RARConfig
from tests.support.toy.models import LAYOUT
from tests.support.toy.sizes import CODEBOOK_SIZE, NUM_CLASSES, NUM_CODES

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
NO_DROPOUT = {"dropout": 0.0, "attn_drop": 0.0, "class_label_dropout": 0.0}
# Overrides of `toy.write_ar_config`: RAR, with half of the orders random in the middle of the 8 steps.
OVERRIDES = tuple(
    f"model.generator.{key}={value}"
    for key, value in {
        "name": "rar",
        "intermediate_size": 64,
        "randomness_anneal_start": 2,
        "randomness_anneal_end": 7,
    }.items()
)
NO_DROPOUT_OVERRIDES = tuple(f"model.generator.{key}=0" for key in NO_DROPOUT)


def rar_generator(**changes) -> RARGenerator:
    """The same weights in every call. changes: fields of RARConfig."""
    torch.manual_seed(0)
    settings = {**SIZES, "condition_num_classes": NUM_CLASSES, **changes}
    model = RARGenerator(RARConfig(**settings), LAYOUT).eval()
    for parameter in model.parameters():  # initial zeros and small values would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def random_codes(rows: int) -> torch.Tensor:
    """(rows, T), the same in every call."""
    return torch.randint(0, CODEBOOK_SIZE, (rows, NUM_CODES), generator=torch.Generator().manual_seed(5))
