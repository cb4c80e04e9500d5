"""What each training costs: operations, GPU-hours, memory, disk, and a configuration for one GPU. All is counted.

python -m benchmarks.cost                                    # the tables of docs/costs.md, in ten minutes
python -m benchmarks.cost --only "AliTok-B" --peak 312 --utilization 0.35

GPU-hours are operations / (peak x utilization). Peak and utilization are assumptions, by default an H100's and 40 %.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Any

import torch

from benchmarks.tokenizer_step import TokenizerStep
from benchmarks.training_memory import count_memory
from modeling.build import build_generator, code_layout
from train_generator.config import ARConfig
from train_generator.trainer import BACKWARD_AND_FORWARD
from train_tokenizer.config import TokenizerConfig
from utils.arguments import at_least, number
from utils.config import load_config
from utils.errors import UserError, entry_point

IMAGES = 1_281_167  # of ImageNet's training split
VIEWS = 10
BYTES_PER_CODE = 2
CHECKPOINT_BYTES = 3 * 4  # of a weight: itself and AdamW's two moments, float32; a moving average adds 4
COUNTED = (2, 4)  # batches; memory is linear in between and beyond
GIB = 2**30
RESERVED = 3 * GIB  # CUDA's context, NCCL's buffers, gaps of the allocator


@dataclass(frozen=True)
class Training:
    """A training, with the number of GPUs that its file or README names."""

    name: str
    file: str
    gpus: int
    schema: type = ARConfig
    keys: tuple[str, ...] = ()  # overrides

    @cached_property
    def config(self) -> Any:
        return load_config(self.schema, "", [f"config={self.file}", *self.keys])

    @property
    def batch(self) -> int:
        """Images of an optimizer step."""
        training = self.config.training
        return training.per_gpu_batch_size * training.gradient_accumulation_steps * self.gpus


@dataclass(frozen=True)
class Cost:
    """Counts of one training."""

    steps: int
    operations: float  # of the whole training
    weights: int  # trained ones
    memory: tuple[float, float]  # bytes of a step: without images, and for each image of a micro-batch

    def gpu_hours(self, peak: float, utilization: float) -> float:
        """peak: operations per second of a GPU."""
        return self.operations / (peak * utilization) / 3600

    def bytes_at(self, batch_size: int) -> float:
        return self.memory[0] + self.memory[1] * batch_size

    def largest_micro_batch(self, batch: int, limit: float) -> int:
        """The largest divisor of `batch` with a step of at most `limit` bytes. Raises UserError if there is none."""
        fitting = [n for n in divisors(batch) if self.bytes_at(n) <= limit]
        if not fitting:
            raise UserError(f"one image needs {self.bytes_at(1) / GIB:.1f} GiB, more than --memory allows")
        return max(fitting)


def divisors(number: int) -> list[int]:
    small = [n for n in range(1, isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _linear(at: dict[int, int]) -> tuple[float, float]:
    (few, low), (more, high) = at.items()
    slope = (high - low) / (more - few)
    return low - few * slope, slope


def generator_cost(training: Training) -> Cost:
    config, steps = training.config, training.config.training.max_train_steps
    with torch.device("meta"):
        generator = build_generator(config.model.generator, code_layout(config.model.vq_model))
    operations = BACKWARD_AND_FORWARD * generator.forward_flops() * steps * training.batch
    weights = sum(p.numel() for p in generator.parameters())
    return Cost(steps, operations, weights, _linear({n: count_memory(config, n).total for n in COUNTED}))


def tokenizer_cost(training: Training) -> Cost:
    step, phases = TokenizerStep(training.config), training.config.phases
    operations = sum(step.flops(phase) * phase.steps for phase in phases) * training.batch
    weights = sum(p.numel() for p in step.weights() if p.requires_grad)
    memory = _linear({n: TokenizerStep(training.config).memory(n).total for n in COUNTED})
    return Cost(sum(phase.steps for phase in phases), operations, weights, memory)


def tokenizers() -> Iterator[Training]:
    folders = {"AliTok": "configs", "AliTok v3": "configs/alitok_v3"}
    folders |= {f"AliTok-512, patch {patch}": f"configs/alitok_512_p{patch}" for patch in (16, 32)}
    for name, folder in folders.items():
        for stage in (1, 2):
            file = f"{folder}/tokenizer_stage{stage}.yaml"
            yield Training(f"{name}, stage {stage}", file, 8, TokenizerConfig)


def generators() -> Iterator[Training]:
    for size, gpus in (("b", 16), ("l", 32), ("xl", 64)):
        yield Training(f"AliTok-{size.upper()}", f"configs/alitok_{size}.yaml", gpus)
    yield Training("AliTok-L-512, patch 16", "configs/alitok_512_p16/ar_l.yaml", 128)
    yield Training("AliTok-L-512, patch 32", "configs/alitok_512_p32/ar_l.yaml", 32)
    for size in ("b", "l", "xl", "xxl"):
        yield Training(f"RAR-{size.upper()}", f"configs/rar_{size}.yaml", 32, keys=("experiment.output_dir=unused",))
    file = "configs/training/generator/maskgit.yaml"
    yield Training("TiTok-B-64, masked", file, 32, keys=("experiment.output_dir=unused",))


def training_table(trainings: Sequence[Training], args: argparse.Namespace) -> Iterator[str]:
    """Lines of Markdown."""
    columns = ("training", "steps × images", "operations", "GPU-hours", "GPUs, GiB each")
    columns += ("one GPU: batch × accumulation, GiB", "a checkpoint")
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for training in trainings:
        cost = (tokenizer_cost if training.schema is TokenizerConfig else generator_cost)(training)
        hours = cost.gpu_hours(args.peak * 1e12, args.utilization)
        own = training.config.training.per_gpu_batch_size
        micro = cost.largest_micro_batch(training.batch, args.memory * 1e9 - RESERVED)
        yield (
            f"| {training.name} | {cost.steps // 1000}k × {training.batch} | {cost.operations / 1e18:.0f} EFLOP"
            f" | {hours:,.0f} | {training.gpus} × {cost.bytes_at(own) / GIB:.0f}"
            f" | {micro} × {training.batch // micro}, {cost.bytes_at(micro) / GIB:.0f}"
            f" | {cost.weights * (CHECKPOINT_BYTES + 4 * training.config.training.use_ema) / 1e9:.1f} GB |"
        )


def encoding_table(trainings: Sequence[Training], args: argparse.Namespace) -> Iterator[str]:
    """Lines of Markdown: ten views of every image of ImageNet, by the tokenizers of second stages."""
    yield "| ten-crop token cache | codes an image | operations | GPU-hours | size |"
    yield "|---|---|---|---|---|"
    for training in trainings:
        layout = code_layout(training.config.model.vq_model)
        operations = TokenizerStep(training.config).encoding_flops() * IMAGES * VIEWS
        yield (
            f"| {training.name.removesuffix(', stage 2')} | {layout.num_codes} | {operations / 1e18:.1f} EFLOP"
            f" | {operations / (args.peak * 1e12 * args.utilization) / 3600:,.1f}"
            f" | {IMAGES * VIEWS * layout.num_codes * BYTES_PER_CODE / 1e9:.1f} GB |"
        )


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="trainings with a name that contains this (default: all)")
    parser.add_argument("--peak", type=at_least(1), default=989, help="TFLOP/s of a GPU (default: 989, H100, bf16)")
    parser.add_argument(
        "--utilization", type=number(float, above=0, max=1), default=0.4, help="share of the peak in use (default: 0.4)"
    )
    parser.add_argument("--memory", type=at_least(1), default=80, help="GB of a GPU (default: 80)")
    args = parser.parse_args()
    chosen = [training for training in (*tokenizers(), *generators()) if args.only in training.name]
    if not chosen:
        raise UserError(f"--only {args.only}: no training has such a name")
    for line in training_table(chosen, args):
        print(line, flush=True)
    encoders = [training for training in chosen if training.name.endswith("stage 2")]
    if encoders:
        print("\n" + "\n".join(encoding_table(encoders, args)))


if __name__ == "__main__":
    main()
