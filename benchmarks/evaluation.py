"""The evaluator's statistics against the formulas in numpy and scipy, in one run; and Inception's rate.

python -m benchmarks.evaluation --samples 50000 --references 10000
python -m benchmarks.evaluation --inception weights/weights-inception-2015-12-05-6726825d.pth --images 256

Features are random numbers with the dimensions of Inception's. Only how many pairs precision and
recall compute exactly depends on their values: `--features` chooses others than normal ones.
"""

import argparse

import numpy as np
import scipy.linalg
import torch

from benchmarks.machine import announce, timed
from evaluation.adm_metrics import NEIGHBOUR, frechet_distance, inception_score, precision_recall, statistics
from evaluation.inception import InceptionExtractor

POOL, SPATIAL, CLASSES = 2048, 2023, 1008
BLOCK = 2000


def plain_fid(a: np.ndarray, b: np.ndarray) -> float:
    (mu_a, sigma_a), (mu_b, sigma_b) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    root = scipy.linalg.sqrtm(sigma_a @ sigma_b).real
    return float(((mu_a - mu_b) ** 2).sum() + np.trace(sigma_a) + np.trace(sigma_b) - 2 * np.trace(root))


def plain_inception_score(logits: np.ndarray) -> float:
    scores = []
    for start in range(0, len(logits), 5000):
        p = scipy.special.softmax(logits[start : start + 5000].astype(np.float64), axis=1)
        scores.append(np.exp((p * (np.log(p) - np.log(p.mean(0, keepdims=True)))).sum(1).mean()))
    return float(np.mean(scores))


def plain_precision_recall(r: np.ndarray, s: np.ndarray) -> tuple[float, float]:
    def distances(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.maximum((u**2).sum(1)[:, None] - 2 * u @ v.T + (v**2).sum(1), 0)

    def radii(x: np.ndarray) -> np.ndarray:
        blocks = (x[i : i + BLOCK] for i in range(0, len(x), BLOCK))
        return np.concatenate([np.partition(distances(b, x), NEIGHBOUR, axis=1)[:, NEIGHBOUR] for b in blocks])

    r, s = (x.astype(np.float16).astype(np.float32) for x in (r, s))
    radii_r, radii_s = radii(r), radii(s)
    inside_s, inside_r = np.zeros(len(s), bool), []
    for i in range(0, len(r), BLOCK):
        d = distances(r[i : i + BLOCK], s)
        inside_s |= (d <= radii_r[i : i + BLOCK, None]).any(0)
        inside_r.append((d <= radii_s).any(1))
    return float(inside_s.mean()), float(np.concatenate(inside_r).mean())


def absolute_normal(rng: np.random.Generator, shape: tuple[int, int], samples: bool) -> np.ndarray:
    return np.abs(rng.standard_normal(shape, dtype=np.float32))


def decaying_spectrum(rng: np.random.Generator, shape: tuple[int, int], samples: bool) -> np.ndarray:
    """The k-th direction has variance 1 / k."""
    scales = np.arange(1, shape[1] + 1, dtype=np.float32) ** -0.5
    return rng.standard_normal(shape, dtype=np.float32) * scales


def heavy_tailed(rng: np.random.Generator, shape: tuple[int, int], samples: bool) -> np.ndarray:
    return rng.standard_exponential(shape, dtype=np.float32) ** np.float32(1.5)


def collapsed(rng: np.random.Generator, shape: tuple[int, int], samples: bool) -> np.ndarray:
    """Samples that are nearly one point."""
    x = rng.standard_normal(shape, dtype=np.float32)
    return 1 + np.float32(0.02) * x if samples else np.abs(x)


FEATURES = {f.__name__: f for f in (absolute_normal, decaying_spectrum, heavy_tailed, collapsed)}


def measure_statistics(args: argparse.Namespace, device: torch.device) -> None:
    rng = np.random.default_rng(0)

    def features(width: int) -> list[np.ndarray]:
        sizes = ((args.references, False), (args.samples, True))
        return [FEATURES[args.features](rng, (n, width), samples) for n, samples in sizes]

    pool, spatial = features(POOL), features(SPATIAL)
    logits = absolute_normal(rng, (args.samples, CLASSES), True)

    def on_device(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x).to(device)

    parts = {
        "FID": (
            lambda: frechet_distance(*(statistics(on_device(x)) for x in pool)),
            lambda: plain_fid(*pool),
        ),
        "sFID": (
            lambda: frechet_distance(*(statistics(on_device(x)) for x in spatial)),
            lambda: plain_fid(*spatial),
        ),
        "IS": (lambda: inception_score(on_device(logits)), lambda: plain_inception_score(logits)),
        "precision, recall": (
            lambda: precision_recall(*(on_device(x) for x in pool)),
            lambda: plain_precision_recall(*pool),
        ),
    }
    chosen = args.parts.split(",") if args.parts else list(parts)
    sums = np.zeros(2)
    for name, (ours, plain) in parts.items():
        if name.split(",")[0] not in [c.split(",")[0] for c in chosen]:
            continue
        if device.type == "cuda":
            ours()  # the first call starts the libraries
        seconds, value = timed(ours, device)
        plain_seconds, plain_value = timed(plain, torch.device("cpu"))
        sums += seconds, plain_seconds
        print(
            f"{name:>18}: {seconds:8.2f} s, numpy and scipy {plain_seconds:8.2f} s,"
            f" ratio {plain_seconds / seconds:6.2f}"
            f"   (values {np.round(value, 6)} and {np.round(plain_value, 6)})",
            flush=True,
        )
    print(f"{'together':>18}: {sums[0]:8.2f} s, numpy and scipy {sums[1]:8.2f} s, ratio {sums[1] / sums[0]:6.2f}")


def measure_network(args: argparse.Namespace, device: torch.device) -> None:
    extractor = InceptionExtractor(args.inception, device)
    images = torch.randint(0, 256, (args.batch_size, 256, 256, 3), dtype=torch.uint8)
    extractor(images)
    rounds = -(-args.images // args.batch_size)
    seconds, _ = timed(lambda: [extractor(images) for _ in range(rounds)], device)
    print(f"Inception at batch {args.batch_size}: {rounds * args.batch_size / seconds:.1f} images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--references", type=int, default=10_000)
    parser.add_argument("--parts", help="of FID,sFID,IS,precision; default: all")
    parser.add_argument("--features", choices=FEATURES, default="absolute_normal", help="what they are drawn from")
    parser.add_argument("--inception", help="weights: measure the network instead")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=64)
    args = parser.parse_args()
    device = announce(args)
    (measure_network if args.inception else measure_statistics)(args, device)


if __name__ == "__main__":
    main()
