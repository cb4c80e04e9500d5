"""SoftCFG against plain guidance: FID and class agreement of the quickstart's generator over a sweep of scales.

python -m experiments.soft_guidance --folder output/quickstart --output output/soft_guidance.json

Both draw with the same noise. A run that was interrupted resumes after the last finished setting. FID is in the
features of the quickstart's classifier, against its reference file, so the numbers compare only to each other.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from evaluation.class_agreement import class_agreement
from evaluation.extractors import ClassifierExtractor
from evaluation.features import Features
from evaluation.fid import Statistics, frechet_distance
from evaluation.images import open_images
from sampling.pipeline import Pipeline
from utils.arguments import at_least, file_path
from utils.atomic import read_json, write_json
from utils.errors import UserError, entry_point
from utils.images import to_bytes
from utils.process import init_process
from utils.weights import fingerprint

SCALES = (1.5, 2.0, 3.0, 4.0, 6.0)
BATCH = 100


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--folder", type=file_path, default=Path("output/quickstart"), help="the quickstart's output")
    add("--output", type=file_path, default=Path("output/soft_guidance.json"), help="JSON file of the results")
    add("--scales", type=float, nargs="+", default=SCALES, help="guidance scales")
    add("--seeds", type=int, nargs="+", default=(0, 1, 2), help="seeds of the sampling noise")
    add("--num_samples", type=at_least(BATCH), default=2000, help="images of each setting (default: 2000)")
    return parser.parse_args()


def evaluate(pipeline: Pipeline, extractor: ClassifierExtractor, reference: Statistics, count: int, seed: int) -> dict:
    """FID and agreement of `count` images, class i mod num_classes."""
    parts, labels = [], torch.arange(count) % pipeline.generator.num_classes
    for ids in torch.arange(count).split(BATCH):
        images = pipeline.generate(labels[ids].tolist(), ids.tolist(), seed)
        parts.append(extractor(to_bytes(images).cpu()))
    features = Features.concatenate(parts)
    return {
        "fid": frechet_distance(reference, Statistics.from_features(features.pool)),
        "agreement": class_agreement(features.logits, labels),
    }


def setting(scale: float, soft: bool, seed: int, count: int) -> str:
    """The name of a setting in the file of results."""
    return f"scale {scale:g}, {'SoftCFG' if soft else 'plain'}, seed {seed}, {count} images"


def read_results(path: Path, generator: str) -> dict:
    """The results so far, and the fingerprint of the weights that they are of. Raises UserError for other weights."""
    results = read_json(path) if path.exists() else {}
    if results.setdefault("generator", generator) != generator:
        raise UserError(f"{path} has results of another generator: remove it, or name another --output")
    return results


def table(results: dict[str, dict], scales: list[float], seeds: list[int], count: int) -> str:
    """Markdown: mean and standard deviation over the seeds; differences between draws with the same noise."""
    columns = "scale | FID, plain | SoftCFG | difference | agreement, %, plain | SoftCFG | difference"
    lines = [f"| {columns} |", "|---" * 7 + "|"]
    for scale in scales:
        cells = [f"{scale:g}"]
        for key, factor in (("fid", 1), ("agreement", 100)):
            plain, soft = (
                factor * np.array([results[setting(scale, soft, seed, count)][key] for seed in seeds])
                for soft in (False, True)
            )
            cells += [f"{x.mean():.2f} ± {x.std(ddof=1):.2f}" for x in (plain, soft)]
            cells.append(f"{(soft - plain).mean():+.2f} ± {(soft - plain).std(ddof=1):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@entry_point
def main() -> None:
    args = parse_arguments()
    if not (args.folder / "reference.npz").is_file():
        raise UserError(f"{args.folder} holds no finished quickstart: run `make quickstart` first")
    device = init_process().device
    extractor = ClassifierExtractor(args.folder / "classifier.safetensors", device)
    batches = open_images(args.folder / "reference.npz").batches(BATCH)
    reference = Features.concatenate([extractor(torch.from_numpy(batch)) for batch in batches])
    statistics = Statistics.from_features(reference.pool)
    pipeline = Pipeline.from_pretrained(args.folder / "ar", device=device, batch_size=BATCH)
    results = read_results(args.output, fingerprint(pipeline.generator.state_dict()))
    for seed in args.seeds:
        for scale in args.scales:
            for soft in (False, True):
                name = setting(scale, soft, seed, args.num_samples)
                if name not in results:
                    drawn = pipeline.with_settings(guidance_scale=scale, soft_guidance=soft)
                    results[name] = evaluate(drawn, extractor, statistics, args.num_samples, seed)
                    write_json(args.output, results)
                    print(name, results[name], flush=True)
    print(table(results, args.scales, args.seeds, args.num_samples))


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
