"""TiTok's YAML files: published values, and the published command lines word for word."""

import shlex

import pytest
import torch

from modeling.build import build_tokenizer
from modeling.configs import read_tokenizer_config
from modeling.titok.settings import TiTokConfig
from tests.support.paths import ROOT
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.phases import PhaseSchedule
from utils.config import load_config
from utils.errors import UserError

STAGE1 = """config=configs/training/TiTok/stage1/titok_{name}.yaml experiment.project="titok_{name}_stage1"
    experiment.name="titok_{name}_stage1_run1" experiment.output_dir="titok_{name}_stage1_run1"
    training.per_gpu_batch_size=32"""
STAGE2 = STAGE1.replace("stage1", "stage2") + " experiment.init_weight=stage1.bin"
TWO_STAGE = {"l32": (32, "large"), "b64": (64, "base"), "s128": (128, "small")}
SINGLE_STAGE = ("bl64_vq8k", "bl128_vq8k", "sl256_vq8k", "bl64_vae_c16")
NO_PROXY = "model.vq_model.pretrained_tokenizer_weight=null"  # its weights would be loaded with the model


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def load(*arguments: str) -> TokenizerConfig:
    return load_config(TokenizerConfig, "", list(arguments))


@pytest.mark.parametrize("name", TWO_STAGE)
@pytest.mark.parametrize("command", [STAGE1, STAGE2])
def test_published_training_commands(command, name):
    config = load(*shlex.split(command.format(name=name)))
    stage = 1 if command is STAGE1 else 2
    assert config.experiment.output_dir == f"titok_{name}_stage{stage}_run1"
    assert config.experiment.init_from == (None if stage == 1 else "stage1.bin")
    assert config.training.freeze_encoder == (stage == 2)
    model = config.model.vq_model
    assert (model.num_latent_tokens, model.vit_enc_model_size) == TWO_STAGE[name]
    assert model.vit_dec_model_size == model.vit_enc_model_size
    assert (model.is_legacy, model.finetune_decoder) == (True, stage == 2)
    assert model.pretrained_tokenizer_weight == "maskgit-vqgan-imagenet-f16-256.bin"


@pytest.mark.parametrize("name", TWO_STAGE)
def test_stage_2_trains_the_published_tokenizer(name):
    """Beside what only training uses."""
    trained = load(*shlex.split(STAGE2.format(name=name)), NO_PROXY).model.vq_model
    assert trained == read_tokenizer_config(f"configs/infer/TiTok/titok_{name}.yaml")


@pytest.mark.parametrize("name", SINGLE_STAGE)
def test_single_stages(name):
    config = load(f"config=configs/training/TiTok/single_stage/titok_{name}.yaml")
    assert config.model.vq_model == read_tokenizer_config(f"configs/infer/TiTok/titok_{name}.yaml")
    assert not config.training.freeze_encoder
    assert config.experiment.init_from is None
    assert [phase.steps for phase in config.phases] == [200_000, 450_000]
    assert [(phase.perceptual_weight, phase.lpips_weight) for phase in config.phases] == [(0.1, 1.0)] * 2
    assert {phase.clustering for phase in config.phases} == {"vq8k" in name}
    assert (config.losses.discriminator_weight, config.losses.lecam_regularization_weight) == (0.1, 0.001)
    assert config.optimizer.params.beta2 == 0.999
    assert config.lr_scheduler.params.warmup_steps == 10_000


def test_published_values_of_both_stages():
    one, two = (load(*shlex.split(command.format(name="b64"))) for command in (STAGE1, STAGE2))
    assert [phase.steps for phase in one.phases] == [1_000_000]
    assert [(phase.steps, phase.gan, phase.perceptual_weight) for phase in two.phases] == [
        (20_000, False, 0.1),
        (480_000, True, 0.1),
    ]
    for config, beta2, warmup in ((one, 0.99, 10_000), (two, 0.999, 5_000)):
        params, rates, training = config.optimizer.params, config.lr_scheduler.params, config.training
        assert (params.learning_rate, params.beta1, params.beta2, params.weight_decay) == (1e-4, 0.9, beta2, 1e-4)
        assert (rates.learning_rate, rates.warmup_steps, rates.end_lr) == (1e-4, warmup, 1e-5)
        assert config.lr_scheduler.scheduler == "cosine"
        assert (training.use_ema, training.ema_decay, training.ema_warmup) == (True, 0.999, True)
        assert (training.max_grad_norm, training.seed, training.enable_tf32) == (1.0, 42, True)
        assert (config.experiment.save_every, config.experiment.log_every, config.experiment.resume) == (
            50_000,
            50,
            "true",
        )
        assert (config.dataset.params.resize, config.dataset.params.random_flip) == ("bicubic", True)
    losses = two.losses
    assert (losses.discriminator_factor, losses.discriminator_weight, losses.discriminator_turns) == (1.0, 0.01, False)
    assert (losses.lecam_regularization_weight, losses.lecam_ema_decay) == (0.001, 0.999)
    assert two.optimizer.params.discriminator_learning_rate == 1e-4


@pytest.mark.parametrize("name", ["infer/TiTok/titok_l32", "fashion_mnist/titok"])
def test_files_of_tokenizers_build(name):
    with torch.device("meta"):
        tokenizer = build_tokenizer(read_tokenizer_config(f"configs/{name}.yaml"))
    assert tokenizer.layout.grid is None


def test_the_toy_size_makes_16_codes():
    config = load("config=configs/fashion_mnist/titok.yaml")
    PhaseSchedule(config.phases, config.lr_scheduler.params.warmup_steps)
    assert config.model.vq_model.layout.num_codes == 16
    assert config.model.vq_model.decoder.width <= 192


def test_defaults_are_those_of_titok_b64():
    assert TiTokConfig() == read_tokenizer_config("configs/infer/TiTok/titok_b64.yaml")


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        (
            "dataset.params.train_shards_path_or_url",
            "set dataset.params.data_path to the data set",
        ),
        (
            "dataset.params.eval_shards_path_or_url",
            "set dataset.params.data_path to the data set",
        ),
        ("dataset.preprocessing.crop_size", "side model.vq_model.image_size"),
        ("losses.quantizer_weight", "set model.vq_model.quantizer_weight"),
        ("losses.perceptual_weight", "phases have perceptual_weight"),
        ("losses.discriminator_start", "the first phase that has gan: true"),
        ("training.max_train_steps", "phases have their steps"),
    ],
)
def test_published_keys_without_use_are_refused_with_what_replaces_them(key, instead):
    with pytest.raises(UserError, match=f"has no use here: .*{instead}"):
        load("config=configs/training/TiTok/stage1/titok_b64.yaml", f"{key}=1")


def test_a_model_size_is_a_few_lines():
    for file in ("training/TiTok/stage1/titok_l32", "training/TiTok/stage2/titok_s128", "infer/TiTok/titok_bl128_vq8k"):
        own = (ROOT / f"configs/{file}.yaml").read_text().splitlines()
        assert len([line for line in own if line and not line.startswith("#")]) <= 6
