"""TiTok's tokenizer at toy size: 32x32 pixels, 6 codes of 32 or latents of 8 numbers."""

from pathlib import Path
from typing import Any

import torch
import yaml
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


def write_titok_config(path: Path, variant: str, steps: tuple[int, int] = (4, 4), **changes: Any) -> Path:
    """A complete YAML for `train_tokenizer/`; steps: of the phases without and with the GAN. changes: of the model."""
    phases = [{"name": "start", "steps": steps[0], "clustering": variant == "single_stage"}]
    if steps[1]:
        phases.append({**phases[0], "name": "gan", "steps": steps[1], "gan": True})
    config = {
        "experiment": {"name": "toy_titok", "output_dir": "unset", "log_every": 1, "eval_every": 100},
        "model": {"vq_model": titok_section(variant, **changes)},
        "dataset": {"params": {"data_path": "unset", "num_workers_per_gpu": 0, "resize": "bicubic"}},
        "losses": {
            "full_precision": True,
            "discriminator_factor": 1.0,
            "discriminator_turns": False,
            "lecam_regularization_weight": 0.1,
            "lecam_ema_decay": 0.9,
        },
        "optimizer": {"params": {"learning_rate": 1e-3, "weight_decay": 1e-2}},
        "lr_scheduler": {"scheduler": "cosine", "params": {"warmup_steps": 2}},
        "training": {
            "freeze_encoder": variant == "stage2",
            "per_gpu_batch_size": 4,
            "mixed_precision": "no",
            "enable_wandb": False,
            "use_ema": True,
            "ema_warmup": True,
        },
        "phases": phases,
    }
    path.write_text(yaml.safe_dump(config))
    return path
