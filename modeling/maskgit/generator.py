"""The masked generators of TiTok, and their registration."""

from modeling.interfaces import GENERATORS, CodeLayout
from modeling.maskgit.masked_transformer import MaskedTransformer
from modeling.maskgit.settings import MaskGITConfig
from modeling.maskgit.uvit import UViT
from modeling.maskgit.vit import ViT

NETWORKS = {"ViT": ViT, "UViT": UViT}


@GENERATORS.register("maskgit", MaskGITConfig)
def build(config: MaskGITConfig, layout: CodeLayout) -> MaskedTransformer:
    """The published files of the two networks have their own key names, so each network is a class."""
    return NETWORKS[config.model_type](config, layout)


build.decoding = MaskedTransformer.decoding
