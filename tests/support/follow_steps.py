"""Run under torchrun: train one or more tokenizers and write what each rank has after every step.

torchrun --nproc_per_node=2 tests/support/follow_steps.py OUTPUT config=... [overrides] [-- OUTPUT config=... ...]
OUTPUT/rank_N.json: a hash of the codebook after every step; OUTPUT/losses.json: losses averaged over
ranks; OUTPUT/moved.json: how far each code has moved.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from dataset.image_dataset import ImageBatch
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.trainer import TokenizerTrainer
from utils.config import load_config
from utils.weights import export_weights


class Float64Trainer(TokenizerTrainer):
    """In float64 rounding does not grow to where it decides between two codes."""

    def to_device(self, batch: ImageBatch) -> ImageBatch:
        batch = super().to_device(batch)
        return batch._replace(images=batch.images.double())


def follow(output: Path, overrides: list[str]) -> Accelerator:
    trainer = Float64Trainer(load_config(TokenizerConfig, "", overrides))
    batches, hashes, losses = trainer.batches(), [], []
    quantize = trainer.tokenizer.quantize
    first = quantize.embedding.weight.detach().clone()
    for _ in range(trainer.total_steps):
        values = trainer.train_step(next(batches))
        for loss in (values[name] for name in ("loss", "discriminator") if name in values):
            losses.append(float(trainer.accelerator.reduce(loss, reduction="mean")))
        digest = hashlib.sha256(quantize.embedding.weight.detach().cpu().numpy().tobytes())
        digest.update(quantize.embed_prob.cpu().numpy().tobytes())
        hashes.append(digest.hexdigest())
    output.mkdir(parents=True, exist_ok=True)
    (output / f"rank_{trainer.accelerator.process_index}.json").write_text(json.dumps(hashes))
    if trainer.accelerator.is_main_process:
        (output / "losses.json").write_text(json.dumps(losses))
        moved = (quantize.embedding.weight.detach() - first).norm(dim=1)
        (output / "moved.json").write_text(json.dumps(moved.tolist()))
        export_weights(output, trainer.tokenizer.state_dict())
    return trainer.accelerator


def main() -> None:
    torch.set_default_dtype(torch.float64)
    trainings: list[list[str]] = [[]]
    for word in sys.argv[1:]:
        if word == "--":
            trainings.append([])
        else:
            trainings[-1].append(word)
    for output, *overrides in trainings:
        accelerator = follow(Path(output), overrides)
    # Without these a rank may end while another still has its connections open, and abort it.
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
