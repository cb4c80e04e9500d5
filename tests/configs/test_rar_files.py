"""RAR's YAML files: published values, and the published command lines word for word."""

import shlex

import pytest
import torch

from modeling.build import build_generator, code_layout
from tests.support.paths import ROOT
from train_generator.config import ARConfig
from utils.config import load_config
from utils.errors import UserError

pytest.importorskip("modeling.maskgit_vq")

SIZES = ("b", "l", "xl", "xxl")
SAMPLE = """config=configs/training/generator/rar.yaml
    experiment.output_dir="rar_{size}" experiment.generator_checkpoint="rar_{size}.bin"
    model.generator.hidden_size={} model.generator.num_hidden_layers={} model.generator.num_attention_heads=16
    model.generator.intermediate_size={} model.generator.randomize_temperature={} model.generator.guidance_scale={}
    model.generator.guidance_scale_pow={}"""
TRAIN = """config=configs/training/generator/rar.yaml
    experiment.project="rar" experiment.name="rar_{size}" experiment.output_dir="rar_{size}"
    model.generator.hidden_size={} model.generator.num_hidden_layers={} model.generator.num_attention_heads=16
    model.generator.intermediate_size={}"""
VALUES = {
    "b": (768, 24, 3072, 1.0, 16.0, 2.75),
    "l": (1024, 24, 4096, 1.02, 15.5, 2.5),
    "xl": (1280, 32, 5120, 1.02, 6.9, 1.5),
    "xxl": (1408, 40, 6144, 1.02, 8.0, 1.2),
}


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def load(*arguments: str) -> ARConfig:
    return load_config(ARConfig, "", list(arguments))


@pytest.mark.parametrize("size", SIZES)
def test_published_commands_give_the_published_models(size):
    own = load(f"config=configs/rar_{size}.yaml", "experiment.output_dir=o")
    sampling = load(*shlex.split(SAMPLE.format(*VALUES[size], size=size)))
    assert sampling.model == own.model
    training = load(*shlex.split(TRAIN.format(*VALUES[size], size=size)))
    assert training.experiment.output_dir == f"rar_{size}"
    with torch.device("meta"):
        build_generator(training.model.generator, code_layout(training.model.vq_model))


def test_published_values():
    config = load(*shlex.split(TRAIN.format(*VALUES["b"], size="b")))
    experiment, training, params = config.experiment, config.training, config.optimizer.params
    assert (experiment.log_every, experiment.resume) == (50, "true")
    assert experiment.tokenizer_checkpoint == "maskgit-vqgan-imagenet-f16-256.bin"
    assert config.dataset.params.pretokenization == "maskgitvq.jsonl"
    assert (training.max_train_steps, training.per_gpu_batch_size, training.use_ema) == (250_000, 64, False)
    assert (training.seed, training.max_grad_norm, training.mixed_precision) == (42, 1.0, "bf16")
    assert (params.learning_rate, params.beta1, params.beta2, params.weight_decay) == (4e-4, 0.9, 0.96, 0.03)
    assert (config.lr_scheduler.params.warmup_steps, config.lr_scheduler.params.end_lr) == (62_500, 1e-5)
    generator = config.model.generator
    assert (generator.randomness_anneal_start, generator.randomness_anneal_end) == (125_000, 187_500)
    assert (generator.dropout, generator.attn_drop, generator.class_label_dropout) == (0.1, 0.1, 0.1)


def test_the_output_folder_must_be_given():
    with pytest.raises(UserError, match=r"no value for experiment\.output_dir"):
        load("config=configs/training/generator/rar.yaml")


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("dataset.params.train_shards_path_or_url", "dataset.params.data_path"),
        ("dataset.params.eval_shards_path_or_url", "dataset.params.data_path"),
        ("dataset.preprocessing.crop_size", "model.vq_model.image_size"),
        ("model.vq_model.pretrained_tokenizer_weight", "experiment.tokenizer_checkpoint"),
        ("model.vq_model.finetune_decoder", "never changes the tokenizer"),
    ],
)
def test_published_keys_without_use_are_refused_with_what_replaces_them(key, instead):
    with pytest.raises(UserError, match=f"has no use here: .*{instead}"):
        load("config=configs/training/generator/rar.yaml", "experiment.output_dir=o", f"{key}=1")


def test_a_model_size_is_a_few_lines():
    for size in SIZES[1:]:
        own = (ROOT / f"configs/rar_{size}.yaml").read_text().splitlines()
        assert len([line for line in own if not line.startswith("#")]) <= 6
