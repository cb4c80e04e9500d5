"""What an ablation trains: variants x seeds, written out as the steps of one pipeline.

A variant is a list of configuration overrides for each stage; all else is common. Every run has its own
configuration files, composed before anything starts, so that a misspelt override is found at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from dataset.image_folder import list_images
from evaluation.extractors import inception_weights
from experiments.ablation.config import INCEPTION, AblationConfig, Variant, check
from experiments.job_runner import Step
from modeling.build import build_generator, build_tokenizer
from modeling.frozen.imagenet_classifiers import SMALL_CLASSIFIER
from train_generator.config import ARConfig
from train_tokenizer.config import TokenizerConfig
from utils.atomic import write_atomically
from utils.config import compose, read_yaml
from utils.errors import UserError


@dataclass(frozen=True)
class Run:
    """One variant with one seed, and where its results lie."""

    variant: str
    title: str
    seed: int
    num_codes: int
    folder: Path
    codes_folder: Path  # of the run whose codes and AR models it uses; its own, if not another's
    tokenizer: Path  # output folder of the training whose tokenizer draws
    steps: tuple[Step, ...]


def _compose(schema: type, path: str, overrides: list[str], **values: Any) -> Any:
    """One training's configuration, as an OmegaConf node that still knows its interpolations."""
    config = compose(schema, read_yaml(path), overrides, path)
    for key, value in values.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


def _write_config(config: Any, path: Path) -> Path:
    content = OmegaConf.to_yaml(config).encode()
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, lambda f: f.write(content))
    return path


class Plan:
    """All runs of an ablation, and the steps in the order of the work: seed by seed, so that an
    interrupted ablation has complete comparisons."""

    def __init__(self, config: AblationConfig):
        check(config)
        config.probes = {name: changes for name, changes in config.probes.items() if changes}
        self.config = config
        self.output = Path(config.output_dir)
        self.data = config.data_path
        self.num_classes = len(list_images(self.data, "train").classes)
        self.classifier = self.output / "classifier.safetensors"
        self.loss_classifier = self.output / "loss_classifier.safetensors"
        self.reference = self.output / "reference.npz"
        self.inception = inception_weights(None, download=False)  # judges too, if it is at hand
        self.image_size = self._common_image_size()
        self.runs = [self._run(name, seed) for seed in config.seeds for name in config.only or config.variants]
        steps = list(dict.fromkeys(step for run in self.runs for step in run.steps))
        common = [self._classifier_step("classifier", self.classifier, seed=0), self._reference_step()]
        if any(self.loss_classifier in step.inputs for step in steps):
            # Another one than the judge's, which would otherwise look at what it was pleased with.
            common.append(self._classifier_step("classifier for the loss", self.loss_classifier, seed=1))
        self.steps = common + steps

    def _tokenizer_config(self, stage: str, variant: Variant, **values: Any) -> Any:
        chosen = self._overrides(stage, variant)
        path = getattr(self.config.configs, stage)
        config = _compose(TokenizerConfig, path, chosen, dataset__params__data_path=self.data, **values)
        if config.losses.perceptual_model == SMALL_CLASSIFIER and not config.losses.perceptual_checkpoint:
            config.losses.perceptual_checkpoint = str(self.loss_classifier)
        config.experiment.resume = "auto"  # what makes an interrupted step go on
        return config

    def _stage2_config(self, variant: Variant, **values: Any) -> Any:
        """With the encoder and codebook of the stage 1 whose codes it decodes."""
        owner = self.config.variants[variant.codes_of] if variant.codes_of else variant
        config = self._tokenizer_config("stage2", variant, **values)
        vq_model = self._tokenizer_config("stage1", owner).model.vq_model
        vq_model.decoder, vq_model.init_std = config.model.vq_model.decoder, config.model.vq_model.init_std
        OmegaConf.update(config, "model.vq_model", vq_model)
        _num_codes(vq_model)  # raises UserError for sizes that do not go together
        return config

    def _common_image_size(self) -> int:
        """Raises UserError if the variants differ in it: they would be judged by different images."""
        chosen = [v for name, v in self.config.variants.items() if not self.config.only or name in self.config.only]
        sizes = {v.title: self._tokenizer_config("stage1", v).model.vq_model.image_size for v in chosen}
        if len(set(sizes.values())) > 1:
            raise UserError(f"all variants need images of one size, but image_size differs: {sizes}")
        return next(iter(sizes.values()))

    def _overrides(self, stage: str, variant: Variant) -> list[str]:
        return [*getattr(self.config.overrides, stage), *getattr(variant, stage)]

    # -- steps of all runs together -----------------------------------------------------------

    def _classifier_step(self, name: str, path: Path, seed: int) -> Step:
        command = (
            *("-m", "evaluation.train_classifier", "--data_path", self.data, "--output", str(path)),
            *("--img_size", str(self.image_size), "--epochs", str(self.config.classifier_epochs)),
            *("--seed", str(seed)),
        )
        return Step(name, command, (path,))

    def _reference_step(self) -> Step:
        command = ("-m", "evaluation.make_reference", "--data_path", self.data, "--output", str(self.reference))
        return Step("reference images", (*command, "--img_size", str(self.image_size)), (self.reference,))

    # -- steps of one run ---------------------------------------------------------------------

    def _run(self, name: str, seed: int) -> Run:
        variant = self.config.variants[name]
        owner = variant.codes_of or name
        folder, codes_folder = (self.output / v / f"seed{seed}" for v in (name, owner))
        stage1 = codes_folder / "tokenizer_stage1"
        steps = list(self._codes_steps(owner, seed, codes_folder))
        tokenizer = stage1
        if variant.second_stage:
            tokenizer = folder / "tokenizer_stage2"
            steps.append(self._stage2_step(variant, name, seed, folder, stage1 / "model.safetensors"))
        steps.append(self._tokenizer_evaluation(name, seed, folder, tokenizer))
        for sampling in self.config.samplings:
            steps += self._sample_steps(sampling, name, owner, seed, folder, codes_folder, tokenizer)
        vq_model = self._tokenizer_config("stage1", self.config.variants[owner]).model.vq_model
        return Run(name, variant.title, seed, _num_codes(vq_model), folder, codes_folder, tokenizer, tuple(steps))

    def _codes_steps(self, owner: str, seed: int, folder: Path) -> list[Step]:
        """Stage 1, its codes, and the AR models trained on them."""
        variant = self.config.variants[owner]
        stage1 = folder / "tokenizer_stage1"
        config = self._tokenizer_config(
            "stage1", variant, training__seed=seed, experiment__output_dir=str(stage1), experiment__name=owner
        )
        written = _write_config(config, folder / "configs" / "stage1.yaml")
        weights = stage1 / "model.safetensors"
        title, workers = f"{owner}, seed {seed}", str(config.dataset.params.num_workers_per_gpu)
        steps = [self._tokenizer_step(f"{title}: stage 1", config, written)]
        steps += [
            Step(
                f"{title}: codes, {split} split",
                (
                    *("pretokenization.py", "--data_path", self.data, "--split", split),
                    *("--img_size", str(self.image_size), "--batch_size", "64", "--num_workers", workers),
                    *("--cached_path", str(folder / f"cache_{split}"), "--tokenizer_config", str(written)),
                    *("--tokenizer_checkpoint", str(weights)),
                    *(("--max_images", str(limit)) if limit else ()),
                ),
                (folder / f"cache_{split}",),
                (weights,),
            )
            for split, limit in (("train", self.config.cached_images), ("val", self.config.cached_val_images))
        ]
        cache = folder / "cache_train"
        for probe, changes in {"ar": [], **self.config.probes}.items():
            target = folder / probe
            config = _compose(
                ARConfig,
                self.config.configs.ar,
                [*self._overrides("ar", variant), *changes],
                training__seed=seed,
                experiment__output_dir=str(target),
                experiment__name=f"{owner} {probe}",
                dataset__params__pretokenization=str(cache),
                dataset__params__pretokenization_val=str(folder / "cache_val"),
                experiment__tokenizer_checkpoint=str(weights),
            )
            self._fit_to_tokenizer(config, variant)
            written = _write_config(config, folder / "configs" / f"{probe}.yaml")
            command = ("train_ar.py", f"config={written}")
            inputs = (written, cache / "metadata.json", folder / "cache_val" / "metadata.json")
            steps.append(Step(f"{title}: {probe}", command, (target,), inputs))
        return steps

    def _tokenizer_step(self, name: str, config: Any, written: Path, *inputs: Path) -> Step:
        if config.losses.perceptual_checkpoint == str(self.loss_classifier):
            inputs = (*inputs, self.loss_classifier)
        command = ("train_tokenizer/train_tokenizer.py", f"config={written}")
        return Step(name, command, (Path(config.experiment.output_dir),), (written, *inputs))

    def _fit_to_tokenizer(self, config: Any, variant: Variant) -> None:
        """The generator's sizes follow from the tokenizer and the data."""
        vq_model = self._tokenizer_config("stage1", variant).model.vq_model
        OmegaConf.update(config, "model.vq_model", vq_model)
        OmegaConf.update(config, "model.generator.image_seq_len", _num_codes(vq_model))
        OmegaConf.update(config, "model.generator.condition_num_classes", self.num_classes)
        OmegaConf.update(config, "experiment.resume", "auto")
        with torch.device("meta"):  # raises UserError for sizes that do not go together
            build_generator(OmegaConf.to_object(config).model.generator)

    def _stage2_step(self, variant: Variant, name: str, seed: int, folder: Path, weights: Path) -> Step:
        target = folder / "tokenizer_stage2"
        config = self._stage2_config(
            variant,
            training__seed=seed,
            experiment__output_dir=str(target),
            experiment__name=name,
            experiment__init_from=str(weights),
        )
        written = _write_config(config, folder / "configs" / "stage2.yaml")
        return self._tokenizer_step(f"{name}, seed {seed}: stage 2", config, written, weights)

    def _tokenizer_evaluation(self, name: str, seed: int, folder: Path, tokenizer: Path) -> Step:
        weights, result = tokenizer / "model.safetensors", folder / "tokenizer.json"
        workers = self._tokenizer_config("stage1", self.config.variants[name]).dataset.params.num_workers_per_gpu
        command = (
            *("-m", "evaluation.evaluate_tokenizer", "--data_path", self.data, "--metrics", "rfid"),
            *("--tokenizer_config", str(tokenizer / "config.yaml"), "--tokenizer_checkpoint", str(weights)),
            *("--classifier", str(self.classifier), "--json", str(result)),
            *("--batch_size", "64", "--num_workers", str(workers)),
        )
        return Step(f"{name}, seed {seed}: reconstructions", command, (result,), (weights, self.classifier))

    def _sample_steps(
        self, sampling: str, name: str, owner: str, seed: int, folder: Path, codes_folder: Path, tokenizer: Path
    ) -> list[Step]:
        samples, result = folder / sampling, folder / f"{sampling}.json"
        generator, weights = codes_folder / "ar" / "model.safetensors", tokenizer / "model.safetensors"
        config = _compose(
            ARConfig,
            self.config.configs.ar,
            [*self._overrides("ar", self.config.variants[owner]), *self.config.samplings[sampling]],
            experiment__output_dir=str(samples),
            experiment__generator_checkpoint=str(generator),
            experiment__tokenizer_checkpoint=str(weights),
            model__generator__seed=seed,
        )
        self._fit_to_tokenizer(config, self.config.variants[owner])
        if self.config.variants[name].second_stage:
            OmegaConf.update(config, "model.vq_model", self._stage2_config(self.config.variants[name]).model.vq_model)
        written = _write_config(config, folder / "configs" / f"{sampling}.yaml")
        npz = Path(f"{samples}.npz")
        judge = (
            *("guided-diffusion/evaluations/evaluator.py", str(self.reference), str(npz)),
            *("--classifier", str(self.classifier), "--json", str(result)),
            *("--metrics", "is,fid,pr,agreement", "--batch_size", "256"),
        )
        title = f"{name}, seed {seed}"
        steps = [
            Step(
                f"{title}: {sampling}",
                ("sample_imagenet.py", f"config={written}"),
                (samples, npz),
                (written, generator, weights),
            ),
            Step(f"{title}: evaluation of {sampling}", judge, (result,), (npz, self.reference, self.classifier)),
        ]
        if self.inception:
            result = folder / f"{sampling}{INCEPTION}.json"
            judge = (*judge[:3], "--inception", str(self.inception), "--json", str(result), "--metrics", "fid")
            steps.append(Step(f"{title}: Inception on {sampling}", judge, (result,), (npz, self.reference)))
        return steps


def _num_codes(vq_model: Any) -> int:
    with torch.device("meta"):  # its sizes are all that is asked for
        return build_tokenizer(OmegaConf.to_object(vq_model)).num_codes
