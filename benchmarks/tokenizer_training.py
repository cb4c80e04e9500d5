"""Tokenizer training: time of a step in each phase of a stage, and of the same step eager in float32, in one run.

python -m benchmarks.tokenizer_training --config configs/tokenizer_stage1.yaml
python -m benchmarks.tokenizer_training --config configs/fashion_mnist/tokenizer_stage1.yaml --images 64    # on a CPU

Steps are those of the real trainer, its data loader included, on JPEG files of ImageNet's most frequent size. In a
phase with the GAN, half of them are the discriminator's. Perceptual networks have random weights, and a second stage
starts from a random first one, which changes no timing. Float32 products may use TensorFloat-32, as
`training.enable_tf32` says.
"""

import argparse
import tempfile
import time
from pathlib import Path

import safetensors.torch
from accelerate.state import AcceleratorState

from benchmarks.machine import announce, free_memory, peak_memory_gib, reset_peak_memory
from benchmarks.pretokenization import write_images
from benchmarks.report import Report, add_json_option
from modeling.build import build_trainable_tokenizer
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.trainer import TokenizerTrainer
from training.peak_flops import synchronize
from utils.config import load_config

WARMUP = 4  # steps; an even number, because tokenizer and discriminator take turns
EAGER_FLOAT32 = ("training.mixed_precision=no", "training.compile=false")


def load(args: argparse.Namespace, scratch: Path, *overrides: str) -> TokenizerConfig:
    arguments = [
        f"config={args.config}",
        f"dataset.params.data_path={scratch / 'images'}",
        "dataset.params.val_split=train",
        f"dataset.params.num_workers_per_gpu={args.num_workers}",
        f"experiment.output_dir={scratch / 'out'}",
        f"experiment.init_from={scratch / 'earlier.safetensors'}",
        "losses.random_weights=true",
        "training.enable_wandb=false",
        *args.overrides,
        *overrides,
    ]
    return load_config(TokenizerConfig, "", arguments)


def phase_times(config: TokenizerConfig, steps: int) -> dict[str, dict[str, float | None]]:
    """Of each phase the seconds of a step, the share of them that waits for data, and the peak memory in GiB."""
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps the first precision of a process
    trainer = TokenizerTrainer(config)
    device, batches, result = trainer.accelerator.device, trainer.batches(), {}
    starts = [0, *trainer.schedule.ends()]
    for phase, start in zip(trainer.schedule.phases, starts, strict=False):
        trainer.state.step = start
        for _ in range(WARMUP):
            trainer.train_step(next(batches))
        reset_peak_memory()
        synchronize(device)
        began, waited = time.perf_counter(), 0.0
        for _ in range(steps):
            before = time.perf_counter()
            micro_batches = next(batches)
            waited += time.perf_counter() - before
            trainer.train_step(micro_batches)
        synchronize(device)
        elapsed = time.perf_counter() - began
        result[phase.name] = {
            "seconds": elapsed / steps,
            "waiting": waited / elapsed,
            "memory_gib": peak_memory_gib(),
        }
    return result


def measure(args: argparse.Namespace, scratch: Path) -> None:
    write_images(scratch / "images", args.images)
    config, report = load(args, scratch), Report(args)
    state = build_trainable_tokenizer(config.model.vq_model).state_dict()
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in state.items()}, config.experiment.init_from
    )
    plain = phase_times(load(args, scratch, *EAGER_FLOAT32), args.steps)
    free_memory()
    batch_size = config.training.per_gpu_batch_size
    for name, ours in phase_times(config, args.steps).items():
        seconds, plain_seconds = ours["seconds"], plain[name]["seconds"]
        report.add(
            f"{name:>10}: {1e3 * seconds:8.1f} ms a step, {batch_size / seconds:8.1f} images/s, {ours['waiting']:.2%}"
            f" of the time waiting for data; eager float32 {1e3 * plain_seconds:8.1f} ms; ratio"
            f" {plain_seconds / seconds:5.2f}",
            phase=name,
            batch=batch_size,
            step_ms=1e3 * seconds,
            images_per_s=batch_size / seconds,
            waiting=ours["waiting"],
            memory_gib=ours["memory_gib"],
            plain_ms=1e3 * plain_seconds,
            plain_waiting=plain[name]["waiting"],
            ratio=plain_seconds / seconds,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/tokenizer_stage1.yaml")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each phase, an even number")
    parser.add_argument("--images", type=int, default=512, help="JPEG files")
    parser.add_argument("--num_workers", type=int, default=4)
    parser.add_argument("overrides", nargs="*", help="dotted.key=value, as for train_tokenizer.py")
    add_json_option(parser)
    args = parser.parse_args()
    announce(args)
    with tempfile.TemporaryDirectory() as scratch:
        measure(args, Path(scratch))


if __name__ == "__main__":
    main()
