"""MaskGIT-VQ as the two-stage models use it: the source of the proxy codes, and the pixel decoder."""

from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from modeling.interfaces import TOKENIZERS, Tokenizer
from modeling.layers.precision import autocast
from modeling.titok.settings import TiTokConfig
from utils.errors import first_line
from utils.weights import load_strict, read_state_dict
from utils.wrapped_weights import without_prefixes

PROXY_TOKENIZER = "maskgit_vq"
# Its parts as the two-stage models name them -> as its own file names them.
PIXEL_PARTS = {"pixel_quantize.": "quantize.", "pixel_decoder.": "decoder."}


def build_proxy(config: TiTokConfig) -> Tokenizer:
    """MaskGIT-VQ with initial weights. Raises ValueError if its codes do not fit to the decoder's patches."""
    declared = OmegaConf.structured(TOKENIZERS.settings_class(PROXY_TOKENIZER))
    try:  # values of a YAML file are text until a declared type converts them
        settings = OmegaConf.to_object(OmegaConf.merge(declared, {"image_size": config.image_size, **config.proxy}))
    except OmegaConfBaseException as error:
        raise ValueError(f"proxy: {first_line(error)}") from error
    proxy = TOKENIZERS.build(PROXY_TOKENIZER, settings)
    grid = config.image_size // config.vit_dec_patch_size
    if proxy.layout.grid != (grid, grid):
        raise ValueError(
            f"vit_dec_patch_size {config.vit_dec_patch_size} makes {grid}x{grid} patches, but a two-stage model needs"
            f" one for each of the {proxy.layout.grid[0]}x{proxy.layout.grid[1]} proxy codes"
        )
    return proxy


def proxy_weights(config: TiTokConfig) -> dict[str, Tensor]:
    """Decoder and codebook of MaskGIT-VQ by the names of a two-stage model. Raises UserError."""
    source = config.pretrained_tokenizer_weight
    with torch.device("meta"):  # only the names
        names = build_proxy(config).state_dict()
    state = without_prefixes(read_state_dict(source), names, source)
    return {
        ours + key.removeprefix(theirs): value
        for ours, theirs in PIXEL_PARTS.items()
        for key, value in state.items()
        if key.startswith(theirs)
    }


class FrozenProxy:
    """MaskGIT-VQ with its weights. No part of the model that uses it: it is neither saved, copied nor trained."""

    def __init__(self, config: TiTokConfig):
        state = read_state_dict(config.pretrained_tokenizer_weight)
        with torch.device("meta"):  # skip the random initialisation, which the file overwrites
            network = build_proxy(config)
        load_strict(network, state, config.pretrained_tokenizer_weight)
        self._network = network.eval().requires_grad_(False)

    def __deepcopy__(self, memo: Any) -> "FrozenProxy":
        return self

    def encode(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [0, 1] -> proxy codes (B, N) int64, in float32 whatever the autocast dtype."""
        with autocast(images.device, "fp32"):
            return self._network.to(images.device).encode(images)

    def decode(self, codes: Tensor) -> Tensor:
        """Proxy codes (B, N) int64 -> images (B, 3, H, W) in [0, 1]."""
        return self._network.to(codes.device).decode(codes)
