"""TiTok's tokenizer: encoder, quantizer, decoder, and the losses of its own."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.interfaces import TOKENIZERS, LossTerm, TokenizerOutput
from modeling.layers.precision import at_least_float32
from modeling.layers.quantizer import VectorQuantizer
from modeling.layers.transformer import learned_tokens
from modeling.layers.weight_decay import decays_by_name
from modeling.titok.decoder import Decoder
from modeling.titok.encoder import Encoder
from modeling.titok.gaussian import Gaussian
from modeling.titok.proxy import PIXEL_PARTS, FrozenProxy, build_proxy, proxy_weights
from modeling.titok.settings import TiTokConfig
from utils.errors import UserError
from utils.weights import load_strict
from utils.wrapped_weights import without_prefixes

ERRORS = {"l2": F.mse_loss, "l1": F.l1_loss}


@TOKENIZERS.register("titok", TiTokConfig)
class TiTok(nn.Module):
    """The tokenizer of "An Image is Worth 32 Tokens for Reconstruction and Generation" (Yu et al.,
    arXiv:2406.07550): an image becomes a line of codes without places.

    Two-stage models (`is_legacy`) predict proxy codes of MaskGIT-VQ. With `finetune_decoder` they hold its decoder
    and go on to pixels softly: the probabilities of the proxy codes mix the rows of `pixel_quantize`.
    Single-stage models draw pixels. With `quantize_mode` vae the latents are Gaussian, and there are no codes.
    """

    optional_keys = ("quantize.embed_prob",)  # the usage statistics of codebook clustering
    variants = {
        "pixel_decoder.": "a two-stage TiTok with its pixel decoder (is_legacy=true finetune_decoder=true)",
        "decoder.ffn.2.": "a two-stage TiTok after stage 1 (is_legacy=true finetune_decoder=false)",
        "decoder.conv_out.": "a single-stage TiTok (is_legacy=false finetune_decoder=false)",
    }
    trainable = True
    code_keys = ("encoder.", "quantize.", "latent_tokens")

    def __init__(self, config: TiTokConfig):
        super().__init__()
        self.config = config
        self.image_size = config.image_size
        self.layout = config.layout
        self.latent_tokens = learned_tokens(config.num_latent_tokens, config.encoder_sizes.width)
        self.encoder = Encoder(config)
        proxy = build_proxy(config) if config.is_legacy else None
        self.decoder = Decoder(config, proxy and proxy.layout.codebook_size)
        self.apply(self._init_weights)
        if config.quantize_mode == "vq":
            self.quantize = VectorQuantizer(
                config.codebook_size,
                config.token_size,
                l2_normalized=config.use_l2_norm,
                commitment_cost=config.commitment_cost,
            )
            bound = 1 / config.codebook_size
            nn.init.uniform_(self.quantize.embedding.weight, -bound, bound)
        self.proxy = None
        if config.finetune_decoder:
            self.pixel_quantize, self.pixel_decoder = proxy.quantize, proxy.decoder
        elif config.is_legacy and config.pretrained_tokenizer_weight:
            self.proxy = FrozenProxy(config)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=self.config.init_std)
            nn.init.zeros_(module.bias)

    # -- images, latents, codes -----------------------------------------------------------------------

    def latents(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [0, 1] -> encoder output (B, token_size, 1, T); twice the channels with vae."""
        return self.encoder(images, self.latent_tokens)

    def posterior(self, images: Tensor) -> Gaussian:
        """With vae: images (B, 3, H, W) in [0, 1] -> the distribution of their latents."""
        return Gaussian.from_channels(self.latents(images))

    def pixels(self, latents: Tensor) -> Tensor:
        """Quantized or Gaussian latents (B, token_size, 1, T) -> images (B, 3, H, W), not clamped to [0, 1]."""
        decoded = self.decoder(latents)
        if not self.config.is_legacy:
            return decoded
        if not self.config.finetune_decoder:
            return self._require_proxy("decode its images").decode(decoded.argmax(1).flatten(1))
        probabilities = at_least_float32(decoded).softmax(1)
        mixed = torch.einsum("bkhw,kc->bchw", probabilities, self.pixel_quantize.embedding.weight)
        return self.pixel_decoder(mixed)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) in [0, 1] -> codes (B, T) int64; with vae latents (B, token_size, 1, T), sampled."""
        if self.layout is None:
            return self.posterior(images).sample()
        return self.quantize.assign(self.latents(images))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes: (B, T) int64 in [0, codebook_size), or with vae latents -> images (B, 3, H, W) in [0, 1]."""
        latents = codes if self.layout is None else self.quantize.lookup(codes)
        return self.pixels(latents).clamp(0, 1)

    # -- for training: modeling.interfaces.TrainableTokenizer -----------------------------------------

    def forward(self, images: Tensor) -> TokenizerOutput:
        """images: (B, 3, H, W) in [0, 1]. The reconstruction is not clamped; stage 1 makes none."""
        config, losses = self.config, {}
        if self.layout is None:
            posterior = self.posterior(images)
            latents = posterior.sample()
            losses["kl"] = LossTerm(posterior.kl().sum(1).mean(), config.kl_weight)
        else:
            latents, quantizer_loss, _ = self.quantize(self.latents(images))
            if quantizer_loss.requires_grad:  # false where encoder and codebook are frozen
                losses["quantizer"] = LossTerm(quantizer_loss, config.quantizer_weight)
        if config.is_legacy and not config.finetune_decoder:
            targets = self._require_proxy("train stage 1").encode(images).unflatten(1, (self.decoder.grid_size, -1))
            error = F.cross_entropy(at_least_float32(self.decoder(latents)), targets)
            return TokenizerOutput({"proxy": LossTerm(error, config.reconstruction_weight), **losses})
        reconstruction = self.pixels(latents)
        error = ERRORS[config.reconstruction_loss](reconstruction, images)
        losses = {"reconstruction": LossTerm(error, config.reconstruction_weight), **losses}
        return TokenizerOutput(losses, reconstruction)

    def _require_proxy(self, purpose: str) -> FrozenProxy:
        if self.proxy is None:
            raise UserError(
                "model.vq_model.pretrained_tokenizer_weight is not set: a two-stage TiTok without pixel decoder needs"
                f" the weights of MaskGIT-VQ to {purpose}"
            )
        return self.proxy

    @property
    def trunks(self) -> tuple[nn.Module, nn.Module]:
        return self.encoder, self.decoder

    def load_earlier_stage(self, state: dict[str, Tensor], source: Any) -> None:
        """All weights of `state`. Stage 2 adds those of MaskGIT-VQ to the weights of stage 1."""
        state = without_prefixes(state, self.state_dict(), source)
        needs_pixels = self.config.finetune_decoder and not any(key.startswith(tuple(PIXEL_PARTS)) for key in state)
        if needs_pixels and not self.config.pretrained_tokenizer_weight:
            raise UserError(
                f"{source} has no pixel decoder: set model.vq_model.pretrained_tokenizer_weight to the weights of"
                " MaskGIT-VQ"
            )
        if needs_pixels:
            state = state | proxy_weights(self.config)
        load_strict(self, state, source, optional=self.optional_keys, variants=self.variants)

    def decays(self, name: str, parameter: Tensor) -> bool:
        return decays_by_name(name, parameter)

    def begin_step(self, phase: Any) -> None:
        if self.layout is not None:
            learns = self.quantize.embedding.weight.requires_grad
            self.quantize.clustering = phase.clustering and learns
            self.quantize.discard_collected()

    def before_update(self) -> None:
        if self.layout is not None:
            self.quantize.update_codebook()

    def log_values(self) -> dict[str, Tensor]:
        if self.layout is None or not self.quantize.clustering:
            return {}
        return {"codebook_usage": self.quantize.recent_usage()}

    def replicated_state(self) -> Tensor | None:
        return None if self.layout is None else self.quantize.embedding.weight
