"""The parts of `python -m benchmarks.all`, the most important ones first."""

import os
from dataclasses import dataclass

WORKERS = str(min(16, len(os.sched_getaffinity(0))))


@dataclass(frozen=True)
class Part:
    """A benchmark with its arguments, in a process of its own."""

    name: str  # of its files, and the row of the tables that it belongs to
    command: str  # module of benchmarks/ and arguments
    toy: str  # the same at toy size, for a rehearsal on a CPU
    weight: float  # its share of the time, against those of the other parts


def _sampling(name: str, config: str, toy: str, batch_sizes: str, weight: float) -> Part:
    return Part(
        name,
        f"sampling --config configs/{config}.yaml --batch_sizes {batch_sizes} --rounds 2",
        f"sampling --config configs/fashion_mnist/{toy}.yaml --batch_sizes 1,2 --rounds 1 --positions 8 --no-compile",
        weight,
    )


def _training(size: str, batch_size: int, weight: float) -> Part:
    return Part(
        f"training_{size}",
        f"ar_training --config configs/alitok_{size}.yaml --batch_size {batch_size} --num_workers {WORKERS}",
        "ar_training --config configs/fashion_mnist/ar.yaml --batch_size 2 --steps 1 --rounds 1 --num_workers 0"
        " --compile false",
        weight,
    )


def _memory(size: str, checkpoint: str, weight: float) -> Part:
    return Part(
        f"memory_{size}" + ("_checkpoint" if checkpoint == "true" else ""),
        f"ar_training --config configs/alitok_{size}.yaml --checkpoint {checkpoint} --compile false"
        " --memory 32,64,128 --num_workers 2",
        f"ar_training --config configs/fashion_mnist/ar.yaml --checkpoint {checkpoint} --memory 2 --num_workers 0",
        weight,
    )


def _tokenizer(stage: int, weight: float) -> Part:
    return Part(
        f"tokenizer_stage{stage}",
        f"tokenizer_training --config configs/tokenizer_stage{stage}.yaml --num_workers {WORKERS}",
        f"tokenizer_training --config configs/fashion_mnist/tokenizer_stage{stage}.yaml --images 4 --num_workers 0"
        " --steps 2 training.per_gpu_batch_size=2",
        weight,
    )


PARTS = (
    Part("correctness", "correctness", "correctness -k one_batch_at_a_time", 9),
    _sampling("sampling_alitok_b", "alitok_b", "ar", "125,500,1000", 4),
    _sampling("sampling_rar_b", "rar_b", "rar", "125,500", 2),
    _sampling("sampling_titok_l32", "infer/TiTok/titok_l32", "titok_maskgit", "125,500", 1.5),
    _training("b", 128, 2),
    _training("l", 64, 2),
    _training("xl", 32, 2.5),
    _tokenizer(1, 3),
    _tokenizer(2, 3),
    Part(
        "pretokenization",
        f"pretokenization --images 2048 --batch_size 32 --num_workers {WORKERS} --plain_images 512",
        "pretokenization --tokenizer_config configs/fashion_mnist/tokenizer_stage2.yaml --images 2 --batch_size 2"
        " --num_workers 0 --min_decoded 2",
        2.5,
    ),
    Part("evaluation", "evaluation --parts FID sFID IS", "evaluation --samples 20 --references 20 --parts IS", 1.5),
    Part(
        "evaluation_precision",
        "evaluation --parts precision --samples 20000 --references 4000",
        "evaluation --samples 20 --references 20 --parts precision",
        1,
    ),
    Part(
        "evaluation_inception",
        "evaluation --inception random --images 2048 --batch_size 64",
        "evaluation --inception random --images 1 --batch_size 1",
        0.5,
    ),
    _memory("b", "false", 0.7),
    _memory("l", "false", 0.7),
    _memory("xl", "false", 0.7),
    _memory("b", "true", 0.7),
    _memory("l", "true", 0.7),
    _memory("xl", "true", 0.7),
    _sampling("sampling_alitok_b_small", "alitok_b", "ar", "1,8", 1.5),
)
