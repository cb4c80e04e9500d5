"""The jobs of an ablation: for each seed and variant, the scripts that a user would run.

All configurations are composed before the first job starts, so a misspelt override is an error at once.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dataset.images import list_images
from experiments.ablation.config import AblationConfig, Variant, check
from experiments.job_runner import Job
from modeling.build import build_generator, code_layout
from modeling.frozen.imagenet_classifiers import SMALL_CLASSIFIER
from train_generator.config import ARConfig
from train_tokenizer.config import TokenizerConfig
from utils.config import load_config
from utils.errors import UserError

# The classifier in a tokenizer's loss has another seed than the one that scores the samples.
TRAIN_CLASSIFIER = """-m evaluation.train_classifier --data_path {data} --output {out}/classifier.safetensors
                      --img_size {image_size} --epochs {epochs} --seed 0"""
TRAIN_LOSS_CLASSIFIER = """-m evaluation.train_classifier --data_path {data} --output {out}/loss_classifier.safetensors
                           --img_size {image_size} --epochs {epochs} --seed 1"""
MAKE_REFERENCE = "-m evaluation.make_reference --data_path {data} --output {out}/reference.npz --img_size {image_size}"
TRAIN_STAGE1 = """train_tokenizer/train_tokenizer.py config={configs.stage1} training.seed={seed}
                  experiment.name={codes_of} experiment.output_dir={stage1} experiment.resume=auto
                  dataset.params.data_path={data}"""
TRAIN_STAGE2 = """train_tokenizer/train_tokenizer.py config={configs.stage2} training.seed={seed}
                  experiment.name={variant} experiment.output_dir={tokenizer} experiment.resume=auto
                  experiment.init_from={stage1}/{weights} dataset.params.data_path={data}"""
PRETOKENIZE = """pretokenization.py --data_path {data} --split {split} --img_size {image_size} --batch_size 64
                 --num_workers {workers} --cached_path {codes}/cache_{split}
                 --tokenizer_config {stage1}/config.yaml --tokenizer_checkpoint {stage1}/{weights}"""
TRAIN_GENERATOR = """train_ar.py config={configs.ar} training.seed={seed}
                     experiment.name={codes_of}_{probe} experiment.output_dir={codes}/{probe} experiment.resume=auto
                     experiment.tokenizer_checkpoint={stage1}/{weights}
                     dataset.params.pretokenization={codes}/cache_train
                     dataset.params.pretokenization_val={codes}/cache_val
                     model.generator.condition_num_classes={num_classes}"""
EVALUATE_TOKENIZER = """-m evaluation.evaluate_tokenizer --data_path {data} --metrics rfid
                        --tokenizer_config {tokenizer}/config.yaml --tokenizer_checkpoint {tokenizer}/{weights}
                        --classifier {out}/classifier.safetensors --json {folder}/tokenizer.json
                        --batch_size 64 --num_workers {workers}"""
SAMPLE = """sample_imagenet.py config={configs.ar} model.generator.seed={seed}
            experiment.output_dir={folder}/{sampling} experiment.generator_checkpoint={codes}/ar/{weights}
            experiment.tokenizer_checkpoint={tokenizer}/{weights}
            model.generator.condition_num_classes={num_classes}"""
EVALUATE_SAMPLES = """guided-diffusion/evaluations/evaluator.py {out}/reference.npz {folder}/{sampling}.npz
                      --classifier {out}/classifier.safetensors --json {folder}/{sampling}.json
                      --metrics is,fid,pr,agreement --batch_size 256"""


@dataclass
class Run:
    """One variant with one seed."""

    variant: str
    codes_of: str  # the variant that trains its stage 1 and its generators: itself unless it shares codes
    title: str
    seed: int
    folder: Path  # its results
    codes: Path  # results of `codes_of` with this seed
    stage1: Path  # output folder of the training of its encoder and codebook
    tokenizer: Path  # output folder of the training of its decoder: stage 1 or stage 2
    num_codes: int = 0  # per image
    image_size: int = 0
    jobs: tuple[Job, ...] = ()


def plan(config: AblationConfig) -> tuple[list[Run], list[Job]]:
    """All runs, and all jobs in the order of work: seed by seed, so that comparisons are complete early.

    Raises UserError for settings that do not fit together.
    """
    check(config)
    config.probes = {name: changes for name, changes in config.probes.items() if changes}  # [] switches a probe off
    num_classes = len(list_images(config.data_path, "train").classes)
    names = config.only or list(config.variants)
    runs = [plan_run(config, name, seed, num_classes) for seed in config.seeds for name in names]
    sizes = {run.title: run.image_size for run in runs}
    if len(set(sizes.values())) > 1:
        raise UserError(f"variants are compared on images of one size, but image_size differs: {sizes}")
    return runs, list(dict.fromkeys(job for run in runs for job in run.jobs))  # shared jobs run once


def plan_run(config: AblationConfig, name: str, seed: int, num_classes: int) -> Run:
    variant, codes_of = config.variants[name], config.variants[name].codes_of or name
    owner = config.variants[codes_of]
    folder, codes = (Path(config.output_dir, v, f"seed{seed}") for v in (name, codes_of))
    stage1 = codes / "tokenizer_stage1"
    tokenizer = folder / "tokenizer_stage2" if variant.second_stage else stage1
    run = Run(name, codes_of, variant.title, seed, folder, codes, stage1, tokenizer)
    values = {"data": config.data_path, "out": config.output_dir, "epochs": config.classifier_epochs}
    values |= {"configs": config.configs, "num_classes": num_classes, "weights": "model.safetensors"}
    job = partial(Job.from_templates, **vars(run), **values)
    train = job("{codes_of}, seed {seed}: stage 1", TRAIN_STAGE1, "{stage1}", "{configs.stage1}")
    train, composed = add_overrides(train, [*config.overrides.stage1, *owner.stage1], TokenizerConfig)
    vq_model = composed.model.vq_model
    run.image_size, run.num_codes = vq_model.image_size, code_layout(vq_model).num_codes
    job = partial(job, **vars(run), workers=composed.dataset.params.num_workers_per_gpu)
    jobs = [
        job("classifier", TRAIN_CLASSIFIER, "{out}/classifier.safetensors"),
        job("reference images", MAKE_REFERENCE, "{out}/reference.npz"),
        *with_loss_classifier(train, composed, job),
        *code_jobs(config, owner, job, vq_model),
    ]
    if variant.second_stage:
        inputs = "{configs.stage2} {stage1}/{weights}"
        train = job("{variant}, seed {seed}: stage 2", TRAIN_STAGE2, "{tokenizer}", inputs)
        train, composed = add_overrides(train, [*config.overrides.stage2, *variant.stage2], TokenizerConfig)
        # Encoder and codebook are those of stage 1, whatever the overrides: others could not decode its codes.
        own = composed.model.vq_model
        vq_model = replace(vq_model, decoder=own.decoder, init_std=own.init_std)
        train, composed = add_overrides(train, [], TokenizerConfig, vq_model)
        jobs += with_loss_classifier(train, composed, job)
    jobs += evaluation_jobs(config, owner, job, vq_model)
    run.jobs = tuple(jobs)
    return run


def code_jobs(config: AblationConfig, owner: Variant, job: Callable[..., Job], vq_model: Any) -> Iterator[Job]:
    """The codes of stage 1, and the generators on them."""
    for split, limit in (("train", config.cached_images), ("val", config.cached_val_images)):
        encode = partial(job, "{codes_of}, seed {seed}: codes, {split} split", split=split, limit=limit)
        command = PRETOKENIZE + (" --max_images {limit}" if limit else "")
        yield encode(command, "{codes}/cache_{split}", "{stage1}/{weights}")
    inputs = "{configs.ar} {codes}/cache_train/metadata.json {codes}/cache_val/metadata.json"
    for probe, changes in {"ar": [], **config.probes}.items():
        train = job("{codes_of}, seed {seed}: {probe}", TRAIN_GENERATOR, "{codes}/{probe}", inputs, probe=probe)
        yield with_generator(train, [*config.overrides.ar, *owner.ar, *changes], vq_model)


def evaluation_jobs(config: AblationConfig, owner: Variant, job: Callable[..., Job], vq_model: Any) -> Iterator[Job]:
    """The evaluation of reconstructions, and samples with their evaluation."""
    inputs = "{tokenizer}/{weights} {out}/classifier.safetensors"
    yield job("{variant}, seed {seed}: reconstructions", EVALUATE_TOKENIZER, "{folder}/tokenizer.json", inputs)
    for sampling, changes in config.samplings.items():
        job = partial(job, sampling=sampling)
        outputs = "{folder}/{sampling} {folder}/{sampling}.npz"
        inputs = "{configs.ar} {codes}/ar/{weights} {tokenizer}/{weights}"
        sample = job("{variant}, seed {seed}: {sampling}", SAMPLE, outputs, inputs)
        yield with_generator(sample, [*config.overrides.ar, *owner.ar, *changes], vq_model)
        inputs = "{folder}/{sampling}.npz {out}/reference.npz {out}/classifier.safetensors"
        evaluate = partial(job, "{variant}, seed {seed}: evaluation of {sampling}", EVALUATE_SAMPLES)
        yield evaluate("{folder}/{sampling}.json", inputs)


def with_loss_classifier(train: Job, composed: TokenizerConfig, job: Callable[..., Job]) -> list[Job]:
    """A tokenizer's training, after that of the classifier in its loss if it needs one."""
    if composed.losses.perceptual_model != SMALL_CLASSIFIER or composed.losses.perceptual_checkpoint:
        return [train]
    classifier = job("classifier for the loss", TRAIN_LOSS_CLASSIFIER, "{out}/loss_classifier.safetensors")
    [path] = classifier.outputs
    command = (*train.command, f"losses.perceptual_checkpoint={path}")
    return [classifier, replace(train, command=command, inputs=(*train.inputs, path))]


def with_generator(job: Job, overrides: list[str], vq_model: Any) -> Job:
    """The job with its overrides, for the codes of `vq_model`. Raises UserError for sizes that do not fit together."""
    job, composed = add_overrides(job, overrides, ARConfig, vq_model)
    with torch.device("meta"):
        build_generator(composed.model.generator, code_layout(composed.model.vq_model))
    return job


def add_overrides(job: Job, overrides: list[str], schema: type, vq_model: Any = None) -> tuple[Job, Any]:
    """The job with overrides before its own, which win, and the composed configuration. Raises UserError."""
    script, file, *own = job.command
    own += [f"model.vq_model={json.dumps(asdict(vq_model))}"] if vq_model else []
    return replace(job, command=(script, file, *overrides, *own)), load_config(schema, "", [file, *overrides, *own])
