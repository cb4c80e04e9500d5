"""Toy sizes for tests: 16x16 images of 4 classes, 8x8 patches, 7 codes an image."""

from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from dataset.image_folder import ImageList
from dataset.token_cache.metadata import CacheMetadata
from dataset.token_cache.writer import CacheWriter
from modeling.alitok.generator import AliTokGenerator, GeneratorConfig
from modeling.alitok.tokenizer import AliTok, AliTokConfig, DecoderConfig, TransformerConfig

IMAGE_SIZE, PATCH_SIZE, NUM_CODES, CODEBOOK_SIZE, NUM_CLASSES = 16, 8, 7, 32, 4

VQ_MODEL = {
    "codebook_size": CODEBOOK_SIZE,
    "token_size": 8,
    "num_latent_tokens": NUM_CODES,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
    "encoder": {"width": 32, "num_layers": 2, "num_heads": 2},
    "decoder": {"width": 32, "num_layers": 2, "num_heads": 2, "causal": False, "num_learned_tokens": 4},
}
STAGE1_DECODER = {"causal": True, "num_learned_tokens": 1, "prefix_head": True}


def tokenizer(stage: int = 2, width: int = 32, init_std: float = 0.02) -> AliTok:
    torch.manual_seed(0)
    decoder = DecoderConfig(width, 2, 2, num_learned_tokens=4)
    if stage == 1:
        decoder = DecoderConfig(width, 2, 2, causal=True, num_learned_tokens=1, prefix_head=True)
    return AliTok(
        AliTokConfig(
            codebook_size=CODEBOOK_SIZE,
            token_size=8,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            encoder=TransformerConfig(width, 2, 2),
            decoder=decoder,
            init_std=init_std,
        )
    ).eval()


def generator(**changes) -> AliTokGenerator:
    torch.manual_seed(0)
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_seq_len": NUM_CODES,
        "condition_num_classes": NUM_CLASSES,
        "codebook_size": CODEBOOK_SIZE,
    } | changes
    model = AliTokGenerator(GeneratorConfig(**settings)).eval()
    torch.nn.init.normal_(model.output.weight, std=0.3)  # zero at first, which would hide mistakes
    return model


def write_images(
    root: Path, per_class: int = 12, splits: tuple[str, ...] = ("train", "val"), noise: bool = False
) -> Path:
    """Images of coloured gradients, a colour per class, of several sizes and modes; or of noise."""
    rng = np.random.default_rng(0)
    for split in splits:
        for c in range(NUM_CLASSES):
            folder = root / split / f"class_{c}"
            folder.mkdir(parents=True)
            for i in range(per_class):
                height, width = rng.integers(16, 40, 2)
                y, x = np.mgrid[0:height, 0:width] / 40
                colour = np.eye(4)[c][:3] + 0.2
                pixels = (255 * np.clip(colour * (x + y)[..., None] + rng.uniform(0, 0.2), 0, 1)).astype(np.uint8)
                if noise:
                    pixels = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
                image = Image.fromarray(pixels)
                if i % 4 == 3:
                    image = image.convert("L")
                image.save(folder / f"{i:03d}.{'JPEG' if i % 2 else 'png'}")
    return root


def write_tokenizer_config(path: Path, stage: int, steps: tuple[int, int] = (6, 4), **training) -> Path:
    """A complete stage-1 or stage-2 YAML at toy size; steps: of the phases without and with the GAN."""
    decoder = VQ_MODEL["decoder"] | (STAGE1_DECODER if stage == 1 else {})
    config = {
        "experiment": {"name": f"toy{stage}", "output_dir": "unset", "log_every": 2, "eval_every": 4, "save_every": 4},
        "model": {"vq_model": VQ_MODEL | {"decoder": decoder}},
        "dataset": {"params": {"data_path": "unset", "num_workers_per_gpu": 0}},
        "lr_scheduler": {"params": {"warmup_steps": 2}},
        "training": {
            "freeze_encoder": stage == 2,
            "per_gpu_batch_size": 8,
            "mixed_precision": "no",
            "enable_wandb": False,
            **training,
        },
        "phases": [
            {"name": "mse", "steps": steps[0], "learning_rate": 1e-3, "clustering": stage == 1},
            {
                "name": "gan",
                "steps": steps[1],
                "learning_rate": 1e-3,
                "end_lr": 1e-4,
                "gan": True,
                "clustering": stage == 1,
            },
        ],
    }
    path.write_text(yaml.safe_dump(config))
    return path


def write_ar_config(path: Path, **training) -> Path:
    """A complete AR YAML at toy size."""
    config = {
        "experiment": {
            "name": "toy",
            "output_dir": "unset",
            "log_every": 2,
            "eval_every": 4,
            "generate_every": 4,
            "save_every": 4,
        },
        "model": {
            "vq_model": VQ_MODEL,
            "generator": {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_seq_len": NUM_CODES,
                "condition_num_classes": NUM_CLASSES,
                "guidance_scale": 2.0,
                "guidance_scale_pow": 1.0,
            },
        },
        "dataset": {"params": {"num_workers_per_gpu": 0}},
        "lr_scheduler": {"params": {"warmup_steps": 2}},
        "training": {
            "per_gpu_batch_size": 8,
            "mixed_precision": "no",
            "enable_wandb": False,
            "max_train_steps": 8,
            **training,
        },
        "sampling": {"num_samples": 10, "batch_size": 4},
    }
    path.write_text(yaml.safe_dump(config))
    return path


def write_token_cache(folder: Path, num_images: int = 24) -> Path:
    """A packed cache of random codes that tell the class, two views an image."""
    rng = np.random.default_rng(0)
    labels = np.arange(num_images) % NUM_CLASSES
    paths = tuple(f"{'abcd'[c]}/{i}.png" for i, c in enumerate(labels))
    images = ImageList(folder, tuple("abcd"), paths, labels)
    metadata = CacheMetadata(
        num_files=num_images,
        files_sha256=images.fingerprint(),
        num_views=2,
        num_codes=NUM_CODES,
        codebook_size=CODEBOOK_SIZE,
        image_size=IMAGE_SIZE,
        crop="center_and_flip",
        split="train",
        precision="fp32",
        tokenizer_sha256="none",
        classes=images.classes,
        shard_size=10,
    )
    writer = CacheWriter(folder, metadata, images)
    writer.prepare()
    for shard in range(writer.num_shards):
        indices = list(writer.items(shard))
        codes = rng.integers(0, 8, (len(indices), 2, NUM_CODES)) + 8 * labels[indices][:, None, None]
        writer.write(shard, indices, codes)
    writer.finish()
    return folder
