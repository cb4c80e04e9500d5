"""Run under torchrun: train a tokenizer and write what each rank has after every step.

torchrun --nproc_per_node=2 tests/support/follow_steps.py OUTPUT config=... [overrides]
OUTPUT/rank_N.json: a hash of the codebook after every step; OUTPUT/losses.json: losses averaged over
ranks; OUTPUT/moved.json: how far each code has moved.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch

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


def main() -> None:
    output = Path(sys.argv[1])
    torch.set_default_dtype(torch.float64)
    trainer = Float64Trainer(load_config(TokenizerConfig, "", sys.argv[2:]))
    batches, hashes, losses = trainer.batches(), [], []
    quantize = trainer.tokenizer.quantize
    first = quantize.embedding.weight.detach().clone()
    for _ in range(trainer.total_steps):
        values = trainer.train_step(next(batches))
        for loss in (values[name] for name in ("loss", "discriminator") if name in values):
            losses.append(float(trainer.accelerator.reduce(loss, reduction="mean")))
        digest = hashlib.sha256(quantize.embedding.weight.detach().numpy().tobytes())
        digest.update(quantize.embed_prob.numpy().tobytes())
        hashes.append(digest.hexdigest())
    output.mkdir(parents=True, exist_ok=True)
    (output / f"rank_{trainer.accelerator.process_index}.json").write_text(json.dumps(hashes))
    if trainer.accelerator.is_main_process:
        (output / "losses.json").write_text(json.dumps(losses))
        moved = (quantize.embedding.weight.detach() - first).norm(dim=1)
        (output / "moved.json").write_text(json.dumps(moved.tolist()))
        export_weights(output, trainer.tokenizer.state_dict())
    # Without these a rank may end while another still has its connections open, and abort it.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
