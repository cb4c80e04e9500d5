"""The evaluator's metrics against plain formulas in numpy and scipy, in one process; and Inception's rate.

python -m benchmarks.evaluation --samples 50000 --references 10000
python -m benchmarks.evaluation --inception weights/weights-inception-2015-12-05-6726825d.pth --images 256
python -m benchmarks.evaluation --inception random --images 256

Features are random numbers with the dimensions of Inception's.
"""

import argparse
import io
import tempfile
from pathlib import Path

import numpy as np
import scipy.linalg
import torch

from benchmarks.machine import announce, timed
from benchmarks.report import Report, add_json_option
from evaluation.extractors import InceptionExtractor
from evaluation.fid import Statistics, frechet_distance
from evaluation.inception_score import SPLIT_SIZE, inception_score
from evaluation.precision_recall import NEIGHBOUR, precision_recall

WIDTHS = {"pool": 2048, "spatial": 2023, "logits": 1008}
BLOCK = 2000


def fid(reference: torch.Tensor, samples: torch.Tensor) -> float:
    return frechet_distance(Statistics.from_features(reference), Statistics.from_features(samples))


def plain_fid(a: np.ndarray, b: np.ndarray) -> float:
    (mu_a, sigma_a), (mu_b, sigma_b) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    root = scipy.linalg.sqrtm(sigma_a @ sigma_b).real
    return float(((mu_a - mu_b) ** 2).sum() + np.trace(sigma_a) + np.trace(sigma_b) - 2 * np.trace(root))


def plain_inception_score(logits: np.ndarray) -> float:
    scores = []
    for start in range(0, len(logits), SPLIT_SIZE):
        p = scipy.special.softmax(logits[start : start + SPLIT_SIZE].astype(np.float64), axis=1)
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


# name -> (the project's function, the plain formula, kinds of features: of references and samples, or only of samples)
PARTS = {
    "FID": (fid, plain_fid, ("pool", "pool")),
    "sFID": (fid, plain_fid, ("spatial", "spatial")),
    "IS": (inception_score, plain_inception_score, ("logits",)),
    "precision": (precision_recall, plain_precision_recall, ("pool", "pool")),
}


def measure_metrics(args: argparse.Namespace, device: torch.device) -> None:
    rng, report = np.random.default_rng(0), Report(args)
    sums = np.zeros(2)
    for name in args.parts:
        ours, plain, kinds = PARTS[name]
        sizes = (args.references, args.samples)[-len(kinds) :]
        arrays = [
            np.abs(rng.standard_normal((n, WIDTHS[kind]), dtype=np.float32))
            for n, kind in zip(sizes, kinds, strict=True)
        ]
        features = [torch.from_numpy(x) for x in arrays]
        if device.type == "cuda":
            ours(*(x[:BLOCK].to(device) for x in features))  # the first call initialises the libraries
        seconds, value = timed(lambda f=ours, x=features: f(*(a.to(device) for a in x)), device)
        plain_seconds, plain_value = timed(lambda f=plain, x=arrays: f(*x), torch.device("cpu"))
        sums += seconds, plain_seconds
        report.add(
            f"{name:>9}: {seconds:8.2f} s, numpy and scipy {plain_seconds:8.2f} s, ratio {plain_seconds / seconds:6.2f}"
            f"   (values {np.round(value, 6)} and {np.round(plain_value, 6)})",
            metric=name,
            seconds=seconds,
            plain_seconds=plain_seconds,
            ratio=plain_seconds / seconds,
        )
    print(f" together: {sums[0]:8.2f} s, numpy and scipy {sums[1]:8.2f} s, ratio {sums[1] / sums[0]:6.2f}")


def untrained_inception() -> torch.nn.Module:
    """torch-fidelity's Inception without its weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_) -> None:
            """Its constructor loads a file."""

    file = io.BytesIO()
    torch.save({}, file)
    file.seek(0)
    return Untrained("inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=file)


def measure_network(args: argparse.Namespace, device: torch.device) -> None:
    with tempfile.TemporaryDirectory() as folder:
        weights = args.inception
        if weights == "random":
            weights = Path(folder, "inception.pth")
            torch.save(untrained_inception().state_dict(), weights)
        extractor = InceptionExtractor(weights, device)
    images = torch.randint(0, 256, (args.batch_size, 256, 256, 3), dtype=torch.uint8)
    extractor(images)
    rounds = -(-args.images // args.batch_size)
    seconds, _ = timed(lambda: [extractor(images) for _ in range(rounds)], device)
    rate = rounds * args.batch_size / seconds
    text = f"Inception at batch {args.batch_size}: {rate:.1f} images/s"
    Report(args).add(text, batch=args.batch_size, images_per_s=rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--references", type=int, default=10_000)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--inception", help="weights, or random: measure the network instead")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=64)
    add_json_option(parser)
    args = parser.parse_args()
    device = announce(args)
    (measure_network if args.inception else measure_metrics)(args, device)


if __name__ == "__main__":
    main()
