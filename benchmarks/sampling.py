"""Sampling speed: this sampler, a plain one and the memory's floor, in one run on one machine.

python -m benchmarks.sampling --batch_sizes 1,8                      # a CPU
python -m benchmarks.sampling --batch_sizes 1 --config configs/rar_b.yaml
python -m benchmarks.sampling --batch_sizes 1,8 --config configs/infer/TiTok/titok_l32.yaml
python -m benchmarks.sampling --batch_sizes 1,8,125,500              # a GPU
python -m benchmarks.sampling --kl 16 --config configs/fashion_mnist/ar.yaml \\
    --checkpoint output/quickstart/ar/model.safetensors              # what bf16 changes in the distributions

The floor of a position is the time to read all weights and the keys and values so far, at the bandwidth
of copying a large tensor. The floor of a sampling step of a masked generator is the time of its matrix products
at the rate of a large one. Without --checkpoint the weights are random, which changes no timing. The time of
50,000 images is the one of the first batches, in which a decoder is compiled and recorded, and that of as many
images at the measured rate.
"""

import argparse
import copy
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.decoding_ways import WAYS, AutoregressiveWay, MaskedWay
from benchmarks.divergence import measure_divergence
from benchmarks.machine import announce, free_memory, peak_memory_gib, reset_peak_memory, timed, use_cpu_time
from benchmarks.report import Report, add_json_option
from modeling.build import build_generator, build_tokenizer, code_layout, load_generator, to_inference
from sampling.pipeline import Pipeline
from sampling.shards import SampleShards
from train_generator.config import ARConfig
from utils.config import load_config
from utils.errors import entry_point
from utils.images import to_bytes

EVALUATED_IMAGES = 50_000


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


def measure(args: argparse.Namespace, config: ARConfig, device: torch.device) -> None:
    generator, report = build(args, config, device), Report(args)
    tokenizer = to_inference(build_tokenizer(config.model.vq_model), device)
    way = WAYS[generator.decoding](args, config, generator, device)
    for batch_size in map(int, args.batch_sizes.split(",")):
        try:
            measure_batch(args, way, tokenizer, batch_size, report)
        except torch.OutOfMemoryError:
            report.add(f"batch {batch_size:4d}: out of memory", batch=batch_size, out_of_memory=True)
        torch.compiler.reset()  # or the compiler gives up after some sizes
        free_memory()


def measure_batch(
    args: argparse.Namespace, way: AutoregressiveWay | MaskedWay, tokenizer, batch_size: int, report: Report
) -> None:
    generator, device = way.generator, way.device
    classes = torch.arange(batch_size, device=device) % generator.num_classes
    reset_peak_memory()
    pipeline = Pipeline(
        tokenizer,
        copy.deepcopy(generator),
        way.settings,
        precision=args.precision,
        compile=args.compile,
        batch_size=batch_size,
    )
    start = way.warm_up(pipeline, classes)
    memory = peak_memory_gib()
    ours, theirs = [], []
    for _ in range(args.rounds):  # alternate: the machine's speed changes with time
        ours.append(way.ours(pipeline, classes))
        try:
            theirs.append(way.plain(classes))
        except torch.OutOfMemoryError:  # its float32 cache is there twice while it grows
            theirs.append(float("nan"))
            free_memory()
    ratios = np.array(theirs) / np.array(ours)
    per_stage, floor = float(np.median(ours)), way.floor(batch_size, pipeline.precision)
    layout = generator.layout
    codes = torch.randint(0, layout.codebook_size, (batch_size, layout.num_codes), device=device)

    def decode() -> np.ndarray:
        return to_bytes(pipeline.decode(codes)).cpu().numpy()

    start += timed(decode, device)[0]
    decoding, images = timed(decode, device)
    writing = timed_writing(images, args.scratch)
    drawing = per_stage * way.stages
    whole = max(drawing + decoding, writing)
    minutes = (start + EVALUATED_IMAGES / batch_size * whole) / 60
    report.add(
        f"batch {batch_size:4d}: {1e3 * per_stage:8.2f} ms a {way.stage}, {per_stage / floor:5.2f} times the"
        f" floor; plain {1e3 * np.median(theirs):8.2f} ms; ratio {np.median(ratios):5.2f}"
        f" ({ratios.min():.2f} to {ratios.max():.2f})\n"
        f"            per batch: codes {drawing:.3f} s, decoder {decoding:.3f} s, writing {writing:.3f} s in the"
        f" background; {batch_size / whole:.3f} images/s\n"
        f"            first batches {start:.1f} s; {EVALUATED_IMAGES:,} images {minutes:.2f} min",
        batch=batch_size,
        stage=way.stage,
        stage_ms=1e3 * per_stage,
        over_floor=per_stage / floor,
        plain_ms=1e3 * np.median(theirs),
        ratio=np.median(ratios),
        ratio_low=ratios.min(),
        ratio_high=ratios.max(),
        codes_s=drawing,
        decoder_s=decoding,
        writing_s=writing,
        images_per_s=batch_size / whole,
        first_batches_s=start,
        minutes=minutes,
        floor_minutes=EVALUATED_IMAGES / batch_size * floor * way.stages / 60,
        memory_gib=memory,
    )


def timed_writing(images: np.ndarray, scratch: str | None) -> float:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        shards = SampleShards(Path(folder) / "out", len(images), images.shape[1], {})
        return timed(lambda: shards.write(0, images), torch.device("cpu"))[0]


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
    add_json_option(parser)
    args = parser.parse_args()
    device = announce(args)
    if args.cpu_time:
        use_cpu_time()
    config = load_config(ARConfig, "", [f"config={args.config}", "experiment.output_dir=unused"])
    if args.kl:
        measure_divergence(args, config, build(args, config, device), Report(args))
    else:
        measure(args, config, device)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
