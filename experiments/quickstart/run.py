"""The whole pipeline on Fashion-MNIST: the repository's own scripts, one after the other.

python -m experiments.quickstart.run
"""

import argparse
import time
from pathlib import Path

from experiments.job_runner import Step, run_steps
from utils.errors import entry_point
from utils.folder_lock import exclusive_lock

CONFIGS = Path("configs/fashion_mnist")


def pipeline(data: Path, output: Path, source: Path | None) -> list[Step]:
    """All steps; each runs a script exactly as the README's ImageNet commands do."""
    stage1, stage2, ar = (output / name for name in ("tokenizer_stage1", "tokenizer_stage2", "ar"))
    tokenizer = str(stage2 / "model.safetensors")
    samples, reference, classifier = output / "samples", output / "reference.npz", output / "classifier.safetensors"
    configs = {name: CONFIGS / f"{name}.yaml" for name in ("tokenizer_stage1", "tokenizer_stage2", "ar")}

    def train_tokenizer(name: str, folder: Path, *overrides: str) -> tuple[str, ...]:
        return (
            "train_tokenizer/train_tokenizer.py",
            f"config={configs[name]}",
            f"experiment.output_dir={folder}",
            f"dataset.params.data_path={data}",
            *overrides,
        )

    def pretokenize(split: str) -> tuple[str, ...]:
        return (
            "pretokenization.py",
            *("--img_size", "32", "--batch_size", "32", "--num_workers", "0"),
            *("--data_path", str(data), "--split", split, "--cached_path", str(output / f"cache_{split}")),
            *("--tokenizer_config", str(configs["tokenizer_stage2"]), "--tokenizer_checkpoint", tokenizer),
        )

    ar_common = (f"config={configs['ar']}", f"experiment.tokenizer_checkpoint={tokenizer}")
    fetch = ("-m", "dataset.fashion_mnist", "--output", str(data), *(("--source", str(source)) if source else ()))
    return [
        Step("data: Fashion-MNIST as an image folder", fetch),  # skips by itself what is there
        Step(
            "tokenizer, stage 1: causal decoder",
            train_tokenizer("tokenizer_stage1", stage1),
            (stage1,),
            (configs["tokenizer_stage1"],),
        ),
        Step(
            "tokenizer, stage 2: bidirectional decoder",
            train_tokenizer("tokenizer_stage2", stage2, f"experiment.init_from={stage1 / 'model.safetensors'}"),
            (stage2,),
            (configs["tokenizer_stage2"], stage1 / "model.safetensors"),
        ),
        *(
            Step(f"tokens, {split} split", pretokenize(split), (output / f"cache_{split}",), (Path(tokenizer),))
            for split in ("train", "val")
        ),
        Step(
            "autoregressive model",
            (
                "train_ar.py",
                *ar_common,
                f"experiment.output_dir={ar}",
                f"dataset.params.pretokenization={output / 'cache_train'}",
                f"dataset.params.pretokenization_val={output / 'cache_val'}",
            ),
            (ar,),
            (configs["ar"], *(output / f"cache_{split}" / "metadata.json" for split in ("train", "val"))),
        ),
        Step(
            "samples",
            (
                "sample_imagenet.py",
                *ar_common,
                f"experiment.output_dir={samples}",
                f"experiment.generator_checkpoint={ar / 'model.safetensors'}",
            ),
            (samples, Path(f"{samples}.npz")),
            (configs["ar"], ar / "model.safetensors", Path(tokenizer)),
        ),
        Step(
            "independent classifier, trained on the training split",
            (
                *("-m", "evaluation.train_classifier", "--data_path", str(data)),
                *("--img_size", "32", "--output", str(classifier), "--epochs", "1.5"),
            ),
            (classifier,),
        ),
        Step(
            "reference images of the validation split",
            (
                *("-m", "evaluation.make_reference", "--data_path", str(data), "--split", "val"),
                *("--img_size", "32", "--output", str(reference)),
            ),
            (reference,),
        ),
        Step(
            "evaluation",
            (
                *("guided-diffusion/evaluations/evaluator.py", str(reference), f"{samples}.npz"),
                *("--classifier", str(classifier), "--json", str(output / "evaluation.json")),
                *("--metrics", "is,fid,sfid,pr,agreement"),
            ),
            (output / "evaluation.json",),
            (Path(f"{samples}.npz"), reference, classifier),
        ),
        Step(
            "report",
            ("-m", "experiments.quickstart.report", "--data_path", str(data), "--output", str(output)),
            inputs=(
                *(folder / "model.safetensors" for folder in (stage1, stage2, ar)),
                *(Path(f"{samples}.npz"), reference, classifier, output / "evaluation.json"),
            ),
        ),
    ]


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", type=Path, default=Path("data/fashion_mnist"))
    parser.add_argument("--source", type=Path, help="folder with the four original Fashion-MNIST files")
    parser.add_argument("--output", type=Path, default=Path("output/quickstart"))
    args = parser.parse_args()
    started = time.perf_counter()
    with exclusive_lock(args.output):
        run_steps(pipeline(args.data_path, args.output, args.source), args.output)
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes in this run")


if __name__ == "__main__":
    main()
