"""AR training: images/s, tokens/s and utilisation of the real training loop, and of a plain one, in one run.

python -m benchmarks.ar_training --config configs/alitok_b.yaml --batch_size 128
python -m benchmarks.ar_training --batch_size 2 --steps 4 --precision no     # on a CPU
python -m benchmarks.ar_training --memory 32,64,128      # peak GPU memory: counted, and measured if there is a GPU

Utilisation is the operations of the model's matrix products (`forward_flops`) over the
measured peak of one large matrix product in the same precision, and over the data sheet's peak.
The plain loop takes as many images at a time as fit; times are compared per image.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.machine import announce, free_memory, peak_memory_gib, reset_peak_memory
from benchmarks.reference_generator import PlainGenerator, PlainStep
from benchmarks.report import Report, add_json_option
from benchmarks.training_memory import count_memory
from dataset.images import ImageList
from dataset.token_cache.metadata import CacheMetadata
from dataset.token_cache.writer import CacheWriter
from modeling.build import code_layout
from train_generator.config import ARConfig
from train_generator.trainer import GeneratorTrainer
from training.peak_flops import synchronize
from utils.config import load_config

WARMUP = 3


def write_cache(folder: Path, config: ARConfig, num_images: int) -> None:
    """Random codes of ten views."""
    generator, layout = config.model.generator, code_layout(config.model.vq_model)
    labels = np.arange(num_images) % generator.condition_num_classes
    classes = tuple(f"{c:04d}" for c in range(generator.condition_num_classes))
    images = ImageList(folder, classes, tuple(f"{classes[c]}/{i}" for i, c in enumerate(labels)), labels)
    metadata = CacheMetadata(
        num_files=num_images,
        files_sha256="",
        num_views=10,
        num_codes=layout.num_codes,
        codebook_size=layout.codebook_size,
        image_size=config.model.vq_model.image_size,
        crop="ten_crop",
        split="train",
        precision="",
        tokenizer_sha256="",
        classes=classes,
        shard_size=num_images,
    )
    writer = CacheWriter(folder, metadata, images)
    writer.prepare()
    codes = np.random.default_rng(0).integers(0, layout.codebook_size, (num_images, 10, layout.num_codes))
    writer.write(0, range(num_images), codes)
    writer.finish()


def load(args: argparse.Namespace, scratch: Path, batch_size: int) -> ARConfig:
    overrides = [
        f"config={args.config}",
        f"experiment.output_dir={scratch / 'out'}",
        f"dataset.params.pretokenization={scratch / 'cache'}",
        "dataset.params.pretokenization_val=null",
        f"dataset.params.num_workers_per_gpu={args.num_workers}",
        f"training.per_gpu_batch_size={batch_size}",
        f"training.mixed_precision={args.precision}",
        f"training.compile={args.compile}",
        f"model.generator.use_checkpoint={args.checkpoint}",
        "training.enable_wandb=false",
        "experiment.generate_every=0",
        *args.overrides,
    ]
    return load_config(ARConfig, "", overrides)


def real_step(trainer: GeneratorTrainer, waits: list[float]) -> Callable[[], Any]:
    """A step of the real loop, its data loader included; appends the seconds it waited for data to `waits`."""
    batches = trainer.batches()

    def step() -> None:
        before = time.perf_counter()
        micro_batches = next(batches)
        waits.append(time.perf_counter() - before)
        trainer.train_step(micro_batches)

    return step


def plain_step(config: ARConfig, accelerator: Accelerator, batch_size: int) -> Callable[[], Any]:
    """A step of the plain loop; its batch is on the device already."""
    settings = config.model.generator
    layout = code_layout(config.model.vq_model)
    codes = torch.randint(layout.codebook_size, (batch_size, layout.num_codes), device=accelerator.device)
    class_ids = torch.randint(settings.condition_num_classes, (batch_size,), device=accelerator.device)
    step = PlainStep(PlainGenerator(settings, layout).to(accelerator.device), accelerator.autocast)
    return lambda: step(codes, class_ids)


def largest_plain_batch(config: ARConfig, accelerator: Accelerator) -> int:
    """The configured batch size, halved until a plain step fits into the memory that is left."""
    batch_size = config.training.per_gpu_batch_size
    while True:
        try:
            plain_step(config, accelerator, batch_size)()
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size //= 2
        else:
            return batch_size
        finally:
            free_memory()


def release(accelerator: Accelerator) -> None:
    """Free deleted models: accelerate keeps references to them."""
    accelerator.free_memory()
    free_memory()


def measure(args: argparse.Namespace, scratch: Path) -> None:
    config, report = load(args, scratch, args.batch_size), Report(args)
    trainer = GeneratorTrainer(config)
    accelerator, device = trainer.accelerator, trainer.accelerator.device
    flops, peak, sheet = trainer.flops_per_image, trainer.peak, trainer.data_sheet
    num_codes = trainer.generator.layout.num_codes
    print(f"measured matrix-multiply peak: {peak / 1e12:.3f} TFLOP/s")
    waits: list[float] = []
    batch_sizes = {"this": args.batch_size}  # and the plain loop's, once this loop has taken its memory
    builders = {
        "this": lambda: real_step(GeneratorTrainer(config), waits),
        "plain": lambda: plain_step(config, accelerator, batch_sizes["plain"]),
    }
    ready: dict[str, Callable[[], Any]] = {"this": real_step(trainer, waits)}
    del trainer  # so that clearing `ready` frees it
    seconds: dict[str, list[float]] = {name: [] for name in builders}  # an image
    waited, memory = [], None
    for number in range(args.rounds):  # alternate: the machine's speed changes with time
        for name, build in builders.items():
            if name == "plain" and number == 0:
                batch_sizes["plain"] = largest_plain_batch(config, accelerator)
            if name not in ready:
                ready[name] = build()
            for _ in range(WARMUP if number == 0 or args.apart else 0):
                ready[name]()
            waits.clear()
            if number == 0:
                reset_peak_memory()
            synchronize(device)
            start = time.perf_counter()
            for _ in range(args.steps):
                ready[name]()
            synchronize(device)
            elapsed = time.perf_counter() - start
            seconds[name].append(elapsed / args.steps / batch_sizes[name])
            if name == "this":
                waited.append(sum(waits) / elapsed)
                memory = peak_memory_gib() if number == 0 else memory  # without the plain loop's
            if args.apart:
                ready.clear()
                release(accelerator)
    rates = {name: 1 / float(np.median(times)) for name, times in seconds.items()}
    for name, rate in rates.items():
        note = f", {np.mean(waited):.2%} of the time waiting for data" if name == "this" else ""
        note += f", {rate * flops / sheet:.1%} of the data sheet's" if sheet else ""
        note += f", {batch_sizes[name]} images at a time" if batch_sizes[name] != args.batch_size else ""
        line = f"{name:>10}: {rate:9.2f} images/s {rate * num_codes:11.0f} tokens/s {rate * flops / peak:7.1%} of peak"
        print(line + note)
    ratios = np.array(seconds["plain"]) / np.array(seconds["this"])  # of rounds next to each other in time
    report.add(
        f"{'ratio':>10}: {np.median(ratios):9.2f} (rounds: {ratios.min():.2f} to {ratios.max():.2f})",
        batch=args.batch_size,
        step_ms=1e3 * args.batch_size / rates["this"],
        images_per_s=rates["this"],
        tokens_per_s=rates["this"] * num_codes,
        of_measured_peak=rates["this"] * flops / peak,
        of_data_sheet=rates["this"] * flops / sheet if sheet else None,
        measured_peak_tflops=peak / 1e12,
        waiting=np.mean(waited),
        memory_gib=memory,
        plain_batch=batch_sizes["plain"],
        plain_images_per_s=rates["plain"],
        ratio=np.median(ratios),
        ratio_low=ratios.min(),
        ratio_high=ratios.max(),
    )


def measure_memory(args: argparse.Namespace, scratch: Path) -> None:
    report = Report(args)
    for batch_size in args.memory:
        config = load(args, scratch, batch_size)
        memory = count_memory(config, batch_size)
        gib = [value / 2**30 for value in (memory.total, memory.state, memory.kept, memory.backward)]
        line = "counted {:.1f} GiB (state {:.1f}, kept for the backward {:.1f}, made by it {:.1f})".format(*gib)
        measured = measured_memory(config) if torch.cuda.is_available() else None
        line += f", measured {measured:.1f} GiB" if measured else ""
        line = f"batch {batch_size:4d}: {line}"
        report.add(line, batch=batch_size, checkpoint=args.checkpoint, counted_gib=gib[0], measured_gib=measured)


def measured_memory(config: ARConfig) -> float | None:
    """GiB of a step; None if that is more than there is."""
    trainer = GeneratorTrainer(config)
    accelerator, step = trainer.accelerator, real_step(trainer, [])
    reset_peak_memory()
    try:
        for _ in range(WARMUP):
            step()
        return peak_memory_gib()
    except torch.OutOfMemoryError:
        return None
    finally:
        del trainer, step
        release(accelerator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/alitok_b.yaml")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="per round")
    parser.add_argument("--rounds", type=int, default=3, help="the median is printed")
    parser.add_argument("--apart", action="store_true", help="hold only one of the two models at a time")
    parser.add_argument("--precision", default="bf16", help="training.mixed_precision")
    parser.add_argument("--compile", default="true")
    parser.add_argument("--checkpoint", default="false", help="activation checkpointing")
    parser.add_argument("--num_workers", type=int, default=4)
    parser.add_argument("--memory", type=lambda s: [int(x) for x in s.split(",")], help="peak memory of batch sizes")
    parser.add_argument("overrides", nargs="*", help="dotted.key=value, as for train_ar.py")
    add_json_option(parser)
    args = parser.parse_args()
    announce(args)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_cache(scratch / "cache", load(args, scratch, 1), 4096)
        (measure_memory if args.memory else measure)(args, scratch)


if __name__ == "__main__":
    main()
