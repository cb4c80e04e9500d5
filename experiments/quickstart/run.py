"""The whole pipeline on Fashion-MNIST: the README's commands, one after the other.

python -m experiments.quickstart.run
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch

from experiments.job_runner import Job, JobRunner
from utils.errors import entry_point
from utils.folder_lock import exclusive_lock


def fast_bf16() -> bool:
    """Whether bf16 is faster than float32 here: on a GPU, or on a CPU with instructions for it."""
    cpu = Path("/proc/cpuinfo")
    return torch.cuda.is_available() or (cpu.is_file() and "avx512_bf16" in cpu.read_text())


def quickstart_jobs(data: Path, output: Path, source: Path | None) -> list[Job]:
    """data: image folder; output: results; source: the four original files, or None for a download."""
    values = {"data": data, "out": output, "source": source, "configs": "configs/fashion_mnist"}
    values |= {f"stage{n}": output / f"tokenizer_stage{n}" for n in (1, 2)} | {"weights": "model.safetensors"}
    values |= {"autocast": "bf16", "precision": "bf16"} if fast_bf16() else {"autocast": "no", "precision": "fp32"}
    job = partial(Job.from_templates, **values)
    return [
        job(  # no outputs: the script itself skips what exists
            "data: Fashion-MNIST as an image folder",
            "-m dataset.fashion_mnist --output {data}" + (" --source {source}" if source else ""),
        ),
        *(
            job(
                "classifier {purpose}",
                """-m evaluation.train_classifier --data_path {data} --img_size 32
                   --output {out}/{file}.safetensors --epochs 1.5 --seed {seed} --max_images {images}""",
                outputs="{out}/{file}.safetensors",
                purpose=purpose,
                file=file,
                images=images,
                seed=seed,
            )
            for purpose, file, images, seed in (
                ("of stage 2's loss", "loss_classifier", 20000, 1),
                ("that judges the samples", "classifier", 60000, 0),
            )
        ),
        job(
            "tokenizer, stage 1: causal decoder",
            """train_tokenizer/train_tokenizer.py config={configs}/tokenizer_stage1.yaml
               training.mixed_precision={autocast}
               experiment.output_dir={stage1} dataset.params.data_path={data}""",
            outputs="{stage1}",
            inputs="{configs}/tokenizer_stage1.yaml",
        ),
        job(
            "tokenizer, stage 2: bidirectional decoder",
            """train_tokenizer/train_tokenizer.py config={configs}/tokenizer_stage2.yaml
               training.mixed_precision={autocast} losses.perceptual_checkpoint={out}/loss_classifier.safetensors
               experiment.output_dir={stage2} dataset.params.data_path={data}
               experiment.init_from={stage1}/{weights}""",
            outputs="{stage2}",
            inputs="{configs}/tokenizer_stage2.yaml {stage1}/{weights} {out}/loss_classifier.safetensors",
        ),
        *(
            job(
                "tokens, {split} split",
                """pretokenization.py --img_size 32 --batch_size 64 --num_workers 0
                   --max_images {images} --precision {precision}
                   --data_path {data} --split {split} --cached_path {out}/cache_{split}
                   --tokenizer_config {configs}/tokenizer_stage2.yaml --tokenizer_checkpoint {stage2}/{weights}""",
                outputs="{out}/cache_{split}",
                inputs="{stage2}/{weights}",
                split=split,
                images=images,
            )
            for split, images in (("train", 25000), ("val", 4000))  # and their mirror images
        ),
        job(
            "reference images of the validation split",
            "-m evaluation.make_reference --data_path {data} --split val --img_size 32 --output {out}/reference.npz",
            outputs="{out}/reference.npz",
        ),
        job(
            "autoregressive model",
            """train_ar.py config={configs}/ar.yaml training.mixed_precision={autocast}
               experiment.tokenizer_checkpoint={stage2}/{weights}
               experiment.output_dir={out}/ar
               dataset.params.pretokenization={out}/cache_train dataset.params.pretokenization_val={out}/cache_val
               training.eval_fid_reference={out}/reference.npz
               training.eval_fid_classifier={out}/classifier.safetensors""",
            outputs="{out}/ar",
            inputs="""{configs}/ar.yaml {out}/cache_train/metadata.json {out}/cache_val/metadata.json
                      {out}/reference.npz {out}/classifier.safetensors""",
        ),
        job(
            "samples",
            """sample_imagenet.py config={configs}/ar.yaml experiment.tokenizer_checkpoint={stage2}/{weights}
               experiment.output_dir={out}/samples experiment.generator_checkpoint={out}/ar/{weights}""",
            outputs="{out}/samples {out}/samples.npz",
            inputs="{configs}/ar.yaml {out}/ar/{weights} {stage2}/{weights}",
        ),
        job(
            "evaluation",
            """guided-diffusion/evaluations/evaluator.py {out}/reference.npz {out}/samples.npz
               --classifier {out}/classifier.safetensors --json {out}/evaluation.json
               --metrics is,fid,sfid,pr,agreement""",
            outputs="{out}/evaluation.json",
            inputs="{out}/samples.npz {out}/reference.npz {out}/classifier.safetensors",
        ),
        job(
            "report",
            "-m experiments.quickstart.report --data_path {data} --output {out}",
            inputs="""{stage1}/{weights} {stage2}/{weights} {out}/ar/{weights}
                      {out}/samples.npz {out}/reference.npz {out}/classifier.safetensors {out}/evaluation.json""",
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
        JobRunner(quickstart_jobs(args.data_path, args.output, args.source), args.output).run()
    print(f"\nthis run took {(time.perf_counter() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
