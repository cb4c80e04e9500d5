"""Sampling speed: this sampler, a plain one and the memory's floor, in one run on one machine.

python -m benchmarks.sampling --batch_sizes 1,8                      # a CPU
python -m benchmarks.sampling --batch_sizes 1 --config configs/rar_b.yaml
python -m benchmarks.sampling --batch_sizes 1,8 --config configs/infer/TiTok/titok_l32.yaml
python -m benchmarks.sampling --batch_sizes 1,8,125,500              # a GPU
python -m benchmarks.sampling --kl 16 --config configs/fashion_mnist/ar.yaml \\
    --checkpoint output/quickstart/ar/model.safetensors              # what bf16 changes in the distributions

The floor of a position is the time to read all weights and the keys and values so far, at the bandwidth
of copying a large tensor. The floor of a sampling step of a masked generator is the time of its matrix products
at the rate of a large one. Without --checkpoint the weights are random, which changes no timing.
"""

import argparse
import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import reference_rar_sampler, reference_sampler
from benchmarks.machine import announce, timed, use_cpu_time
from benchmarks.reference_masked_sampler import plain_masked_sample
from benchmarks.reference_sampler import plain_sample
from modeling.build import build_generator, build_tokenizer, code_layout, load_generator, to_inference
from sampling.autoregressive import AutoregressiveDecoder
from sampling.masked import MaskedSettings
from sampling.noise import image_noise
from sampling.pipeline import Pipeline
from sampling.settings import SamplingSettings
from sampling.shards import SampleShards
from train_generator.config import ARConfig
from training.peak_flops import matmul_peak
from utils.config import load_config
from utils.errors import UserError, entry_point
from utils.images import to_bytes

COPIED_BYTES = 1 << 29
REPEATS = 5
WARMUP_POSITIONS = 3
PLAIN_LOGITS = {"alitok": reference_sampler.plain_logits, "rar": reference_rar_sampler.plain_logits}
READ_ONCE = "adaLN_modulation"  # matrices of that name are needed once an image; a step reads their products


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second when a large tensor is copied."""
    source = torch.ones(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES / min(timed(lambda: target.copy_(source), device)[0] for _ in range(REPEATS))


def step_bytes(generator, rows: int, positions: int, bytes_per_number: int) -> float:
    """Bytes that each of the first `positions` positions reads on average: all matrices, and the cache so far."""
    matrices = [(n, p) for n, p in generator.named_parameters() if p.ndim == 2 and n != "embeddings.weight"]
    weights = sum(rows * p.shape[0] if READ_ONCE in name else p.numel() for name, p in matrices)
    config = generator.config
    cache = 2 * rows * config.num_hidden_layers * config.hidden_size * positions / 2
    return (weights + cache) * bytes_per_number


def build(args: argparse.Namespace, config: ARConfig, device: torch.device):
    layout = code_layout(config.model.vq_model)
    if args.checkpoint:
        return load_generator(config.model.generator, layout, args.checkpoint, device)
    torch.manual_seed(0)
    generator = build_generator(config.model.generator, layout)
    for parameter in generator.parameters():
        if parameter.ndim == 2 and not parameter.any():  # initialised with zeros: all codes equally likely
            torch.nn.init.normal_(parameter, std=0.02)
    return to_inference(generator, device)


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

    def ours(self, pipeline: Pipeline, class_ids: Tensor) -> float:
        """Seconds a position for one batch, after a warm-up; `positions` >= 2 of them are drawn.

        The first position counts once, because it may do work for all of them.
        """
        on_cpu, positions = self.device.type == "cpu", self.positions
        for wanted in (WARMUP_POSITIONS if on_cpu else positions, positions):
            noise = image_noise(0, range(len(class_ids)), self.stages)
            codes = pipeline.decoder.stream(class_ids, noise)
            first, _ = timed(lambda c=codes: next(c), self.device)
            others, _ = timed(lambda c=codes, n=wanted: [next(c) for _ in range(n - 1)], self.device)
        return (first + others / (positions - 1) * (self.stages - 1)) / self.stages

    def plain(self, class_ids: Tensor) -> float:
        """Seconds a position of the plain sampler."""
        arguments = (PLAIN_LOGITS[self.config.name], self.generator, class_ids)
        arguments += (self.config.guidance_scale, self.config.guidance_scale_pow, self.positions)
        return timed(lambda: plain_sample(*arguments), self.device)[0] / self.positions

    def floor(self, rows: int, precision: str) -> float:
        """Seconds a position needs to read weights and cache; rows: images."""
        rows *= 2 if self.settings.scales(self.stages) else 1
        return step_bytes(self.generator, rows, self.positions, 2 if precision == "bf16" else 4) / self.bandwidth


class MaskedWay:
    """What is measured of a masked decoder: the time of a sampling step."""

    stage = "sampling step"

    def __init__(self, args: argparse.Namespace, config: ARConfig, generator, device: torch.device):
        self.generator, self.device = generator, device
        self.settings = MaskedSettings.from_config(config.model.generator)
        self.stages = self.settings.num_steps
        self.rate = matmul_peak(device, torch.bfloat16 if args.precision == "bf16" else torch.float32)
        print(f"large matrix product in {args.precision} {self.rate / 1e12:.2f} TFLOP/s; {self.stages} sampling steps")

    def ours(self, pipeline: Pipeline, class_ids: Tensor) -> float:
        """Seconds a sampling step for one batch, after a warm-up."""
        noise = image_noise(0, range(len(class_ids)), pipeline.decoder.noise_shape)
        timed(lambda: next(pipeline.decoder.stream(class_ids, noise)), self.device)
        return timed(lambda: pipeline.decoder(class_ids, noise), self.device)[0] / self.stages

    def plain(self, class_ids: Tensor) -> float:
        """Seconds a sampling step of the plain sampler."""
        return (
            timed(lambda: plain_masked_sample(self.generator, class_ids, self.settings), self.device)[0] / self.stages
        )

    def floor(self, rows: int, precision: str) -> float:
        """Seconds a sampling step needs for its matrix products at the rate of a large one; rows: images."""
        passes = sum(2 if self.settings.guidance_weight(step) else 1 for step in range(self.stages))
        return passes / self.stages * rows * self.generator.forward_flops() / self.rate


WAYS = {"autoregressive": AutoregressiveWay, "masked": MaskedWay}


def measure(args: argparse.Namespace, config: ARConfig, device: torch.device) -> None:
    generator = build(args, config, device)
    tokenizer = to_inference(build_tokenizer(config.model.vq_model), device)
    way = WAYS[generator.decoding](args, config, generator, device)
    for batch_size in map(int, args.batch_sizes.split(",")):
        classes = torch.arange(batch_size, device=device) % generator.num_classes
        pipeline = Pipeline(
            tokenizer,
            copy.deepcopy(generator),
            way.settings,
            precision=args.precision,
            compile=args.compile,
            batch_size=batch_size,
        )
        ours, theirs = [], []
        for _ in range(args.rounds):  # alternate: the machine's speed changes with time
            ours.append(way.ours(pipeline, classes))
            try:
                theirs.append(way.plain(classes))
            except torch.OutOfMemoryError:  # its float32 cache is there twice while it grows
                theirs.append(float("nan"))
        ratios = np.array(theirs) / np.array(ours)
        per_stage, floor = float(np.median(ours)), way.floor(batch_size, pipeline.precision)
        layout = generator.layout
        codes = torch.randint(0, layout.codebook_size, (batch_size, layout.num_codes), device=device)
        for _ in range(2):  # the first time warms up
            decoding, images = timed(lambda c=codes, p=pipeline: to_bytes(p.decode(c)).cpu().numpy(), device)
        writing = timed_writing(images, args.scratch)
        drawing = per_stage * way.stages
        whole = max(drawing + decoding, writing)
        print(
            f"batch {batch_size:4d}: {1e3 * per_stage:8.2f} ms a {way.stage}, {per_stage / floor:5.2f} times the"
            f" floor; plain {1e3 * np.median(theirs):8.2f} ms; ratio {np.median(ratios):5.2f}"
            f" ({ratios.min():.2f} to {ratios.max():.2f})\n"
            f"            per batch: codes {drawing:.3f} s, decoder {decoding:.3f} s, writing {writing:.3f} s in the"
            f" background; {batch_size / whole:.3f} images/s",
            flush=True,
        )


def timed_writing(images: np.ndarray, scratch: str | None) -> float:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        shards = SampleShards(Path(folder) / "out", len(images), images.shape[1], {})
        return timed(lambda: shards.write(0, images), torch.device("cpu"))[0]


def step_distributions(
    generator, class_ids: Tensor, codes: Tensor, scales: list[float], cache_precision: str | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, T, K) of each next code along given codes, without guidance and with it."""
    classes = torch.cat([class_ids, torch.full_like(class_ids, generator.num_classes)])
    cache, codes = generator.new_cache(classes, cache_precision), torch.cat([codes, codes])
    fed = (codes[:, max(t - 1, 0) : t] for t in range(codes.shape[1]))
    logits = torch.cat([generator(last, classes, cache).double() for last in fed], dim=1)
    conditional, unconditional = logits.chunk(2)
    guided = unconditional + torch.tensor(scales, device=codes.device)[:, None] * (conditional - unconditional)
    return conditional.log_softmax(-1), guided.log_softmax(-1)


def measure_divergence(args: argparse.Namespace, config: ARConfig, device: torch.device) -> None:
    """KL divergence of the next-code distributions, float32 against --precision and --cache_precision, along
    float32's trajectories."""
    exact = build(args, config, device)
    if exact.decoding != "autoregressive":
        raise UserError(f"--kl measures next-code distributions; '{config.model.generator.name}' has none")
    settings = SamplingSettings.from_config(config.model.generator)
    tokenizer = to_inference(build_tokenizer(config.model.vq_model), device)
    class_ids = torch.arange(args.kl, device=device) % exact.num_classes
    codes = AutoregressiveDecoder(exact, settings)(class_ids, image_noise(0, range(args.kl), exact.layout.num_codes))
    scales = settings.scales(exact.layout.num_codes) or [1.0] * exact.layout.num_codes
    references = step_distributions(exact, class_ids, codes, scales)
    Pipeline(tokenizer, exact, settings, precision=args.precision, compile=args.compile)  # casts `exact`
    rounded = step_distributions(exact, class_ids, codes, scales, args.cache_precision)
    cache = f" with keys and values in {args.cache_precision}" if args.cache_precision else ""
    print(f"KL of {args.precision}{cache} from float32 over {args.kl} trajectories, nats per code:")
    for name, p, q in zip(("as they are", f"guided, up to {scales[-1]:g}"), references, rounded, strict=True):
        kl, entropy = (p.exp() * (p - q)).sum(-1), -(p.exp() * p).sum(-1).mean()
        print(
            f"{name:>20}: mean {kl.mean():.2e}, 99th percentile {kl.flatten().quantile(0.99):.2e}, largest"
            f" {kl.max():.2e}; mean entropy {entropy:.2f}"
        )


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/alitok_b.yaml")
    parser.add_argument("--checkpoint", help="generator weights; default: random ones")
    parser.add_argument("--batch_sizes", default="1,8")
    parser.add_argument("--positions", type=int, help="draw only this many codes of each image, 2 or more")
    parser.add_argument("--rounds", type=int, default=3, help="the median is printed")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument(
        "--cache_precision", choices=("fp8_values", "fp8"), help="of keys and values; default: --precision"
    )
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cpu_time", action="store_true", help="time of one processor thread, for a busy machine")
    parser.add_argument("--kl", type=int, help="measure the divergence from float32 over this many images instead")
    parser.add_argument("--scratch", help="folder on the disk to measure")
    args = parser.parse_args()
    device = announce(args)
    if args.cpu_time:
        use_cpu_time()
    config = load_config(ARConfig, "", [f"config={args.config}", "experiment.output_dir=unused"])
    (measure_divergence if args.kl else measure)(args, config, device)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
