"""What is measured of each way of decoding: the time of a stage, of a plain sampler's stage, and the floor of both."""

import argparse

import torch
from torch import Tensor

from benchmarks import reference_rar_sampler, reference_sampler
from benchmarks.machine import timed
from benchmarks.reference_masked_sampler import plain_masked_sample
from benchmarks.reference_sampler import plain_sample
from modeling.layers.kv_cache import DTYPES
from sampling.masked import MaskedSettings
from sampling.noise import image_noise
from sampling.pipeline import Pipeline
from sampling.settings import SamplingSettings
from train_generator.config import ARConfig
from training.peak_flops import matmul_peak

COPIED_BYTES = 1 << 29
REPEATS = 5
WARMUP_POSITIONS = 3  # on a CPU, where all positions run the same code
WARMUP_BATCHES = 2  # on a GPU: a decoder may compile in the first and record its graphs in the second
PLAIN_LOGITS = {"alitok": reference_sampler.plain_logits, "rar": reference_rar_sampler.plain_logits}
READ_ONCE = "adaLN_modulation"  # matrices of that name are needed once an image; a stage reads their products


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second when a large tensor is copied."""
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / min(timed(lambda: target.copy_(source), device)[0] for _ in range(REPEATS))


def step_bytes(
    generator, rows: int, positions: int, bytes_per_number: int, cache_precision: str | None = None
) -> float:
    """Bytes that each of the first `positions` positions reads on average: all matrices, and the cache so far."""
    matrices = [(n, p) for n, p in generator.named_parameters() if p.ndim == 2 and n != "embeddings.weight"]
    weights = sum(rows * p.shape[0] if READ_ONCE in name else p.numel() for name, p in matrices)
    config = generator.config
    cached = sum(bytes_per_number if dtype is None else dtype.itemsize for dtype in DTYPES[cache_precision])
    cache = cached * rows * config.num_hidden_layers * config.hidden_size * positions / 2
    return weights * bytes_per_number + cache


class AutoregressiveWay:
    """What is measured of an autoregressive decoder: the time of a position."""

    stage = "position"

    def __init__(self, args: argparse.Namespace, config: ARConfig, generator, device: torch.device):
        self.generator, self.config, self.device = generator, config.model.generator, device
        self.settings = SamplingSettings.from_config(config.model.generator, cache_precision=args.cache_precision)
        self.stages = generator.layout.num_codes
        self.positions = min(args.positions or self.stages, self.stages)
        self.bandwidth = copy_bandwidth(device)
        print(f"copy bandwidth {self.bandwidth / 1e9:.1f} GB/s; {self.positions} of {self.stages} positions")

    def _draw(self, pipeline: Pipeline, class_ids: Tensor, positions: int) -> tuple[float, float]:
        """Seconds of the first position, which may do work for all of them, and of the other `positions` - 1."""
        codes = pipeline.decoder.stream(class_ids, image_noise(0, range(len(class_ids)), self.stages))
        first, _ = timed(lambda: next(codes), self.device)
        others, _ = timed(lambda: [next(codes) for _ in range(positions - 1)], self.device)
        return first, others

    def warm_up(self, pipeline: Pipeline, class_ids: Tensor) -> float:
        """Seconds of the first batches, in which the decoder is compiled and recorded."""
        if self.device.type == "cpu":
            return sum(self._draw(pipeline, class_ids, min(WARMUP_POSITIONS, self.stages)))
        return sum(sum(self._draw(pipeline, class_ids, self.positions)) for _ in range(WARMUP_BATCHES))

    def ours(self, pipeline: Pipeline, class_ids: Tensor) -> float:
        """Seconds a position for one batch; `positions` >= 2 of them are drawn."""
        first, others = self._draw(pipeline, class_ids, self.positions)
        return (first + others / (self.positions - 1) * (self.stages - 1)) / self.stages

    def plain(self, class_ids: Tensor) -> float:
        """Seconds a position of the plain sampler."""
        arguments = (PLAIN_LOGITS[self.config.name], self.generator, class_ids)
        arguments += (self.config.guidance_scale, self.config.guidance_scale_pow, self.positions)
        return timed(lambda: plain_sample(*arguments), self.device)[0] / self.positions

    def floor(self, rows: int, precision: str) -> float:
        """Seconds a position needs to read weights and cache; rows: images."""
        rows *= 2 if self.settings.scales(self.stages) else 1
        sizes = (2 if precision == "bf16" else 4, self.settings.cache_precision)
        return step_bytes(self.generator, rows, self.positions, *sizes) / self.bandwidth


class MaskedWay:
    """What is measured of a masked decoder: the time of a sampling step."""

    stage = "sampling step"

    def __init__(self, args: argparse.Namespace, config: ARConfig, generator, device: torch.device):
        self.generator, self.device = generator, device
        self.settings = MaskedSettings.from_config(config.model.generator)
        self.stages = self.settings.num_steps
        self.rate = matmul_peak(device, torch.bfloat16 if args.precision == "bf16" else torch.float32)
        print(f"large matrix product in {args.precision} {self.rate / 1e12:.2f} TFLOP/s; {self.stages} sampling steps")

    def _draw(self, pipeline: Pipeline, class_ids: Tensor) -> float:
        noise = image_noise(0, range(len(class_ids)), pipeline.decoder.noise_shape)
        return timed(lambda: pipeline.decoder(class_ids, noise), self.device)[0]

    def warm_up(self, pipeline: Pipeline, class_ids: Tensor) -> float:
        """Seconds of the first batches, in which the decoder is compiled."""
        return sum(self._draw(pipeline, class_ids) for _ in range(1 if self.device.type == "cpu" else WARMUP_BATCHES))

    def ours(self, pipeline: Pipeline, class_ids: Tensor) -> float:
        """Seconds a sampling step for one batch."""
        return self._draw(pipeline, class_ids) / self.stages

    def plain(self, class_ids: Tensor) -> float:
        """Seconds a sampling step of the plain sampler."""
        sample = timed(lambda: plain_masked_sample(self.generator, class_ids, self.settings), self.device)
        return sample[0] / self.stages

    def floor(self, rows: int, precision: str) -> float:
        """Seconds a sampling step needs for its matrix products at the rate of a large one; rows: images."""
        passes = sum(2 if self.settings.guidance_weight(step) else 1 for step in range(self.stages))
        return passes / self.stages * rows * self.generator.forward_flops() / self.rate


WAYS = {"autoregressive": AutoregressiveWay, "masked": MaskedWay}
