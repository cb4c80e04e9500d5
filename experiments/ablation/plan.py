"""The jobs of an ablation: for each seed and variant, the scripts that a user would run.

All configurations are composed before the first job starts, so a misspelt override is an error at once.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dataset.images import list_images
from experiments.ablation.config import AblationConfig, Variant, check
from experiments.job_runner import Job
from modeling.build import build_generator, code_layout
from modeling.configs import read_tokenizer_config
from modeling.frozen.small_classifier import SMALL_CLASSIFIER
from train_generator.config import ARConfig
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.phases import PhaseSchedule
from utils.config import load_config
from utils.errors import UserError
from utils.weights import EXPORTED_FILE

TRAIN_CLASSIFIER = """-m evaluation.train_classifier --data_path {classes} --output {out}/{file}.safetensors
                      --img_size {image_size} --epochs {epochs} --seed {classifier_seed}"""
MAKE_REFERENCE = "-m evaluation.make_reference --data_path {data} --output {out}/reference.npz --img_size {image_size}"
TRAIN_STAGE1 = """train_tokenizer/train_tokenizer.py config={configs[stage1]} training.seed={seed}
                  experiment.name={codes_of} experiment.output_dir={stage1} experiment.resume=auto
                  dataset.params.data_path={data}"""
TRAIN_STAGE2 = """train_tokenizer/train_tokenizer.py config={configs[stage2]} training.seed={seed}
                  experiment.name={variant} experiment.output_dir={tokenizer} experiment.resume=auto
                  experiment.init_from={stage1}/{weights} dataset.params.data_path={data}"""
PRETOKENIZE = """pretokenization.py --data_path {data} --split {split} --img_size {image_size} --batch_size 64
                 --num_workers {workers} --cached_path {codes}/cache_{split}
                 --tokenizer_config {stage1}/config.yaml --tokenizer_checkpoint {stage1}/{weights}"""
TRAIN_GENERATOR = """train_ar.py config={configs[ar]} training.seed={seed}
                     experiment.name={author}_{probe} experiment.output_dir={generators}/{probe} experiment.resume=auto
                     experiment.tokenizer_checkpoint={stage1}/{weights}
                     dataset.params.pretokenization={codes}/cache_train
                     dataset.params.pretokenization_val={codes}/cache_val
                     model.generator.condition_num_classes={num_classes}"""
EVALUATE_TOKENIZER = """-m evaluation.evaluate_tokenizer --data_path {data} --metrics lpips,rfid
                        --lpips_network small_classifier --lpips_checkpoint {out}/classifier.safetensors
                        --tokenizer_config {tokenizer}/config.yaml --tokenizer_checkpoint {tokenizer}/{weights}
                        --classifier {out}/classifier.safetensors --json {folder}/tokenizer.json
                        --batch_size 64 --num_workers {workers}"""
INFLUENCE = """-m evaluation.code_influence --data_path {data} --tokenizer {tokenizer} --images 256
               --json {folder}/influence.json"""
SAMPLE = """sample_imagenet.py config={configs[ar]} model.generator.seed={seed}
            experiment.output_dir={folder}/{sampling} experiment.generator_checkpoint={generators}/ar/{weights}
            experiment.tokenizer_checkpoint={tokenizer}/{weights}
            model.generator.condition_num_classes={num_classes}"""
EVALUATE_SAMPLES = """guided-diffusion/evaluations/evaluator.py {out}/reference.npz {folder}/{sampling}.npz
                      --classifier {out}/classifier.safetensors --json {folder}/{sampling}.json
                      --metrics is,fid,pr,agreement --batch_size 256"""


@dataclass
class Run:
    """One variant with one seed."""

    variant: str
    codes_of: str  # the variant that trains its stage 1: itself unless it shares codes
    origin: str  # of its stage 1 and codes, in the names of jobs
    author: str  # the variant that trains its generators: itself or `codes_of`
    title: str
    seed: int
    folder: Path  # its results
    codes: Path  # results of `codes_of`
    generators: Path  # results of `author` with this seed
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
    variant = config.variants[name]
    codes_of = variant.codes_of or name
    author = name if variant.own_generator else codes_of
    folder, codes, generators = (Path(config.output_dir, v, f"seed{seed}") for v in (name, codes_of, author))
    origin, trained = f"{codes_of}, seed {seed}", config.variants[codes_of].tokenizer
    if trained:
        origin, codes = codes_of, codes.parent / "codes"  # one for all seeds
    stage1 = Path(trained or codes / "tokenizer_stage1")
    tokenizer = folder / "tokenizer_stage2" if variant.second_stage else stage1
    run = Run(name, codes_of, origin, author, variant.title, seed, folder, codes, generators, stage1, tokenizer)
    values = {
        "data": config.data_path,
        "classes": config.classifier_data or config.data_path,
        "out": config.output_dir,
        "epochs": config.classifier_epochs,
    }
    values |= {"num_classes": num_classes, "weights": EXPORTED_FILE, "workers": config.workers}

    def files(variant: str) -> dict[str, str]:
        return {**config.configs, **config.variants[variant].configs}

    job = partial(Job.from_templates, **vars(run), **values, configs=files(codes_of))
    vq_model, trainings = plan_stage1(config, config.variants[codes_of], run, job)
    run.image_size, run.num_codes = vq_model.image_size, code_layout(vq_model).num_codes
    job = partial(job, **vars(run), configs=files(author))
    overrides = [*config.overrides.ar, *config.variants[author].ar]
    jobs = [
        job("classifier", TRAIN_CLASSIFIER, "{out}/classifier.safetensors", file="classifier", classifier_seed=0),
        job("reference images", MAKE_REFERENCE, "{out}/reference.npz"),
        *trainings,
    ]
    if config.generators:
        jobs += [*code_jobs(config, job), *generator_jobs(config, overrides, job, vq_model)]
    if variant.second_stage:
        vq_model, trainings = plan_stage2(config, variant, partial(job, configs=files(name)), vq_model)
        jobs += trainings
    jobs += evaluation_jobs(config, overrides, job, vq_model)
    run.jobs = tuple(jobs)
    return run


def plan_stage1(config: AblationConfig, owner: Variant, run: Run, job: Callable[..., Job]) -> tuple[Any, Iterable[Job]]:
    """Settings of the tokenizer, and the jobs that train it."""
    if owner.tokenizer:
        return read_tokenizer_config(run.stage1), ()
    train = job("{origin}: stage 1", TRAIN_STAGE1, "{stage1}", "{configs[stage1]}")
    train, composed = add_overrides(train, [*config.overrides.stage1, *owner.stage1], TokenizerConfig)
    return composed.model.vq_model, with_loss_classifier(train, composed, job)


def plan_stage2(
    config: AblationConfig, variant: Variant, job: Callable[..., Job], stage1: Any
) -> tuple[Any, Iterable[Job]]:
    """stage1: settings of the tokenizer of stage 1. Returns those of stage 2, and the jobs that train it."""
    inputs = "{configs[stage2]} {stage1}/{weights}"
    train = job("{variant}, seed {seed}: stage 2", TRAIN_STAGE2, "{tokenizer}", inputs)
    train, composed = add_overrides(train, [*config.overrides.stage2, *variant.stage2], TokenizerConfig)
    # Encoder and codebook are those of stage 1, whatever the overrides: others could not decode its codes.
    own = composed.model.vq_model
    vq_model = replace(stage1, decoder=own.decoder, init_std=own.init_std)
    train, composed = add_overrides(train, [], TokenizerConfig, vq_model)
    return vq_model, with_loss_classifier(train, composed, job)


def code_jobs(config: AblationConfig, job: Callable[..., Job]) -> Iterator[Job]:
    """The codes of stage 1."""
    for split, limit in (("train", config.cached_images), ("val", config.cached_val_images)):
        encode = partial(job, "{origin}: codes, {split} split", split=split, limit=limit)
        command = PRETOKENIZE + (" --max_images {limit}" if limit else "")
        yield encode(command, "{codes}/cache_{split}", "{stage1}/{weights}")


def generator_jobs(
    config: AblationConfig, overrides: list[str], job: Callable[..., Job], vq_model: Any
) -> Iterator[Job]:
    inputs = "{configs[ar]} {codes}/cache_train/metadata.json {codes}/cache_val/metadata.json"
    for probe, changes in {"ar": [], **config.probes}.items():
        train = job("{author}, seed {seed}: {probe}", TRAIN_GENERATOR, "{generators}/{probe}", inputs, probe=probe)
        yield with_generator(train, [*overrides, *changes], vq_model)


def evaluation_jobs(
    config: AblationConfig, overrides: list[str], job: Callable[..., Job], vq_model: Any
) -> Iterator[Job]:
    """The evaluation of the tokenizer, and samples with their evaluation."""
    inputs = "{tokenizer}/{weights} {out}/classifier.safetensors"
    yield job("{variant}, seed {seed}: reconstructions", EVALUATE_TOKENIZER, "{folder}/tokenizer.json", inputs)
    if code_layout(vq_model).grid:
        inputs = "{tokenizer}/{weights}"
        yield job("{variant}, seed {seed}: influence of codes", INFLUENCE, "{folder}/influence.json", inputs)
    for sampling, changes in config.samplings.items():
        job = partial(job, sampling=sampling)
        outputs = "{folder}/{sampling} {folder}/{sampling}.npz"
        inputs = "{configs[ar]} {generators}/ar/{weights} {tokenizer}/{weights}"
        sample = job("{variant}, seed {seed}: {sampling}", SAMPLE, outputs, inputs)
        yield with_generator(sample, [*overrides, *changes], vq_model)
        inputs = "{folder}/{sampling}.npz {out}/reference.npz {out}/classifier.safetensors"
        evaluate = partial(job, "{variant}, seed {seed}: evaluation of {sampling}", EVALUATE_SAMPLES)
        yield evaluate("{folder}/{sampling}.json", inputs)


def with_loss_classifier(train: Job, composed: TokenizerConfig, job: Callable[..., Job]) -> list[Job]:
    """A tokenizer's training, after that of the classifier in its losses if it needs one.

    That classifier has another seed than the one that scores the samples.
    """
    losses, schedule = composed.losses, PhaseSchedule(composed.phases, 0, composed.lr_scheduler.params)
    networks = (
        ("perceptual", schedule.uses_perceptual, losses.perceptual_model, losses.perceptual_checkpoint),
        ("lpips", schedule.uses_lpips, losses.lpips_network, losses.lpips_checkpoint),
    )
    missing = [loss for loss, used, name, file in networks if used and name == SMALL_CLASSIFIER and not file]
    if not missing:
        return [train]
    values = {"file": "loss_classifier", "classifier_seed": 1, "image_size": composed.model.vq_model.image_size}
    classifier = job("classifier for the loss", TRAIN_CLASSIFIER, "{out}/{file}.safetensors", **values)
    [path] = classifier.outputs
    command = (*train.command, *(f"losses.{loss}_checkpoint={path}" for loss in missing))
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
