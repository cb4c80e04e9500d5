"""The YAML files of TiTok's generators: published values, and the published command lines word for word."""

import shlex

import pytest
import torch

from modeling.build import build_generator, code_layout
from modeling.maskgit.generator import build
from sampling.decoding import decoder_settings
from sampling.masked import MaskedSettings
from tests.support.paths import ROOT
from train_generator.config import ARConfig
from utils.config import load_config
from utils.errors import UserError

pytest.importorskip("modeling.titok")

SAMPLE = 'config=configs/infer/TiTok/titok_{0}{1}.yaml experiment.output_dir="titok_{0}_{1}"'
TRAIN = """config=configs/training/generator/maskgit.yaml experiment.project="titok_generation"
    experiment.name="titok_b64_maskgit" experiment.output_dir="titok_b64_maskgit"
    experiment.tokenizer_checkpoint=tokenizer.bin"""
SETTINGS = {
    "l32": MaskedSettings(8, 4.5, "linear", 3.0, 9.5, True),
    "b64": MaskedSettings(8, 3.0, "linear", 3.0, 11.0, True),
    "s128": MaskedSettings(64, 6.9, "power-cosine", 3.0, 2.8, True),
}
PARAMETERS = {"l32": 177_202_432, "b64": 177_227_008, "s128": 294_990_848}


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def load(*arguments: str) -> ARConfig:
    return load_config(ARConfig, "", list(arguments))


@pytest.mark.parametrize("size", SETTINGS)
def test_published_sampling(size):
    config = load(*shlex.split(SAMPLE.format(size[0], size[1:])))
    assert decoder_settings(config.model.generator, build.decoding) == SETTINGS[size]
    assert config.experiment.generator_checkpoint == f"generator_titok_{size}.bin"
    assert config.experiment.tokenizer_checkpoint == f"tokenizer_titok_{size}.bin"
    assert (config.model.generator.seed, config.sampling.num_samples, config.sampling.batch_size) == (42, 50_000, None)
    with torch.device("meta"):
        generator = build_generator(config.model.generator, code_layout(config.model.vq_model))
    assert sum(p.numel() for p in generator.parameters()) == PARAMETERS[size]


def test_published_training():
    config = load(*shlex.split(TRAIN))
    experiment, training, params = config.experiment, config.training, config.optimizer.params
    assert (experiment.tokenizer_checkpoint, experiment.output_dir) == ("tokenizer.bin", "titok_b64_maskgit")
    assert (experiment.save_every, experiment.eval_every, experiment.generate_every) == (50_000, 50_000, 5_000)
    assert (experiment.log_every, experiment.log_grad_norm_every, experiment.resume) == (50, 1_000, "true")
    assert (training.max_train_steps, training.per_gpu_batch_size) == (500_000, 64)
    assert (training.use_ema, training.ema_decay, training.mixed_precision) == (True, 0.999, "bf16")
    assert (training.seed, training.max_grad_norm) == (42, 1.0)
    assert (params.learning_rate, params.beta1, params.beta2, params.weight_decay) == (2e-4, 0.9, 0.96, 0.03)
    assert (config.lr_scheduler.params.warmup_steps, config.lr_scheduler.params.end_lr) == (10_000, 1e-5)
    assert (config.dataset.params.pretokenization, config.dataset.params.ten_crop) == (None, False)
    generator = config.model.generator
    assert (generator.label_smoothing, generator.loss_weight_unmasked_token) == (0.1, 0.1)
    assert (generator.dropout, generator.attn_drop, generator.class_label_dropout) == (0.1, 0.1, 0.1)


def test_published_keys_without_use_are_refused_with_what_replaces_them():
    for key, instead in (
        ("losses.label_smoothing", r"model\.generator\.label_smoothing"),
        ("training.num_generated_images", r"experiment\.generate_every"),
    ):
        with pytest.raises(UserError, match=f"has no use here: .*{instead}"):
            load(*shlex.split(TRAIN), f"{key}=1")
