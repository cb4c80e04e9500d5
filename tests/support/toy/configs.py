"""Complete YAML files at toy size."""

from pathlib import Path

import yaml

from tests.support.toy.sizes import CODEBOOK_SIZE, IMAGE_SIZE, NUM_CLASSES, NUM_CODES, PATCH_SIZE

# Overrides that switch all dropout of the generator off.
NO_DROPOUT = tuple(f"model.generator.{key}=0" for key in ("dropout", "attn_drop", "tok_dropout", "class_label_dropout"))

VQ_MODEL = {
    "codebook_size": CODEBOOK_SIZE,
    "token_size": 8,
    "num_latent_tokens": NUM_CODES,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
    "encoder": {"width": 32, "num_layers": 2, "num_heads": 2},
    "decoder": {"width": 32, "num_layers": 2, "num_heads": 2, "causal": False, "num_learned_tokens": 4},
}
MASKGIT_VQ = {  # 32x32 pixels, 8x8 codes
    "name": "maskgit_vq",
    "codebook_size": CODEBOOK_SIZE,
    "token_size": 8,
    "image_size": 32,
    "channels": 32,
    "channel_multipliers": [1, 1, 2],
}
STAGE1_DECODER = {"causal": True, "num_learned_tokens": 1, "prefix_head": True}


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
