"""Settings of TiTok's tokenizer. The keys are the published ones; the defaults are those of titok_b64."""

from dataclasses import dataclass
from typing import Any

from modeling.interfaces import CodeLayout
from modeling.layers.transformer import TransformerConfig
from utils.config import option, section

SIZES = {
    "small": TransformerConfig(512, 8, 8),
    "base": TransformerConfig(768, 12, 12),
    "large": TransformerConfig(1024, 24, 16),
}
CUSTOM = "custom"


@dataclass
class TiTokConfig:
    name: str = option("titok", "registered tokenizer")
    codebook_size: int = option(4096, "number of different codes", min=1)
    token_size: int = option(12, "width of a latent's vector", min=1)
    num_latent_tokens: int = option(64, "codes an image", min=1)
    image_size: int = option(256, "side of the images in pixels", min=1)
    quantize_mode: str = option("vq", "vq: codes | vae: Gaussian latents without codes", choices=("vq", "vae"))
    use_l2_norm: bool = option(True, "divide latents and rows of the codebook by their lengths")
    commitment_cost: float = option(0.25, "training: weight of the latents' part of the quantizer's loss", min=0)
    vit_enc_model_size: str = option("base", "size of the encoder; custom: `encoder`", choices=(*SIZES, CUSTOM))
    vit_dec_model_size: str = option("base", "size of the decoder; custom: `decoder`", choices=(*SIZES, CUSTOM))
    vit_enc_patch_size: int = option(16, "side of the encoder's patches in pixels", min=1)
    vit_dec_patch_size: int = option(16, "side of the decoder's patches in pixels; two-stage: 16", min=1)
    encoder: TransformerConfig = section(TransformerConfig, "sizes, for vit_enc_model_size custom")
    decoder: TransformerConfig = section(TransformerConfig, "sizes, for vit_dec_model_size custom")
    is_legacy: bool = option(True, "two-stage: the decoder predicts proxy codes of MaskGIT-VQ; false: single-stage")
    finetune_decoder: bool = option(True, "two-stage: with the pixel decoder, so images are decoded; false: stage 1")
    pretrained_tokenizer_weight: str | None = option(
        None, "two-stage: weights of MaskGIT-VQ, for training and for images of stage 1", path="read"
    )
    proxy: dict[str, Any] = option({}, "two-stage: settings of MaskGIT-VQ, if not the published ones")
    init_std: float = option(0.02, "spread of the initial weights; small models start faster with more", above=0)
    reconstruction_loss: str = option("l2", "training: error of the pixels", choices=("l2", "l1"))
    reconstruction_weight: float = option(1.0, "training: weight of that error", min=0)
    quantizer_weight: float = option(1.0, "training: weight of the quantizer's loss", min=0)
    kl_weight: float = option(1e-6, "training with vae: weight of the KL divergence, summed over an image", min=0)

    @property
    def encoder_sizes(self) -> TransformerConfig:
        return SIZES.get(self.vit_enc_model_size, self.encoder)

    @property
    def decoder_sizes(self) -> TransformerConfig:
        return SIZES.get(self.vit_dec_model_size, self.decoder)

    @property
    def layout(self) -> CodeLayout | None:
        """Codes on a line; None for Gaussian latents. Raises ValueError for settings that do not fit together."""
        for name in ("vit_enc_patch_size", "vit_dec_patch_size"):
            if self.image_size % getattr(self, name):
                raise ValueError(f"image_size {self.image_size} is not a multiple of {name} {getattr(self, name)}")
        if self.finetune_decoder and not self.is_legacy:
            raise ValueError("finetune_decoder is for two-stage models: set is_legacy=true or finetune_decoder=false")
        if self.quantize_mode == "vq":
            return CodeLayout(self.codebook_size, self.num_latent_tokens)
        if self.is_legacy:
            raise ValueError("quantize_mode vae has no two-stage model: set is_legacy=false and finetune_decoder=false")
        return None
