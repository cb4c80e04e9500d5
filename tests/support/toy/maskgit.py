"""The masked generators at toy size, on AliTok's toy codes or on a line of codes."""

import torch

from modeling.interfaces import CodeLayout
from modeling.maskgit.generator import build
from modeling.maskgit.masked_transformer import MaskedTransformer
from modeling.maskgit.settings import MaskGITConfig
from tests.support.toy.models import LAYOUT
from tests.support.toy.sizes import NUM_CLASSES

NETWORKS = ("ViT", "UViT")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
# Overrides of `toy.write_ar_config`.
OVERRIDES = (
    "model.generator.name=maskgit",
    "model.generator.intermediate_size=64",
    "model.generator.num_steps=4",
    "model.generator.randomize_temperature=1",
)


def masked_generator(network: str = "ViT", layout: CodeLayout = LAYOUT, **changes) -> MaskedTransformer:
    """The same weights in every call. changes: fields of MaskGITConfig."""
    torch.manual_seed(0)
    settings = {**SIZES, "condition_num_classes": NUM_CLASSES, "model_type": network, **changes}
    model = build(MaskGITConfig(**settings), layout).eval()
    for name, parameter in model.named_parameters():  # small initial values would hide mistakes
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=0.3)
    return model


def some_masked(codes: torch.Tensor) -> torch.Tensor:
    """About half of the codes (B, T) replaced by -1, at least one in each row; the same in every call."""
    masked = torch.rand(codes.shape, generator=torch.Generator().manual_seed(8)) < 0.5
    masked[:, 0] = True
    return codes.masked_fill(masked, -1)
