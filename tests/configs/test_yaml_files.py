"""The YAML files of configs/: published values, models that fit, explanations."""

import pytest
import torch
from omegaconf import OmegaConf

from modeling.build import build_generator, build_tokenizer
from tests.support.paths import ROOT
from train_generator.config import ARConfig
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.phases import PhaseSchedule
from utils.config import compose, help_lines, load_config

AR_FILES = [
    f"configs/{name}.yaml"
    for name in (
        *(f"alitok_{size}" for size in ("b", "l", "xl")),
        *(f"alitok_v3/ar_{size}" for size in ("b", "l", "xl")),
        *(f"alitok_512_p{patch}/ar_l" for patch in (16, 32)),
        "fashion_mnist/ar",
        "pictures_64/ar",
    )
]
FOLDERS = ("", "fashion_mnist/", "alitok_v3/", "alitok_512_p16/", "alitok_512_p32/", "pictures_64/")
TOKENIZER_FILES = [f"configs/{folder}tokenizer_stage{stage}.yaml" for folder in FOLDERS for stage in (1, 2)]

REQUIRED = {
    ARConfig: ["experiment.output_dir=o"],
    TokenizerConfig: ["experiment.output_dir=o", "dataset.params.data_path=d"],
}


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def load_ar(*arguments: str) -> ARConfig:
    return load_config(ARConfig, "", ["config=configs/alitok_b.yaml", *arguments])


@pytest.mark.parametrize("file", AR_FILES)
def test_generator_files_build(file):
    config = load_config(ARConfig, "", [f"config={file}"])
    with torch.device("meta"):
        tokenizer = build_tokenizer(config.model.vq_model)
        build_generator(config.model.generator, tokenizer.layout)


@pytest.mark.parametrize("file", TOKENIZER_FILES)
def test_tokenizer_files_build(file):
    config = load_config(TokenizerConfig, "", [f"config={file}", "dataset.params.data_path=d"])
    with torch.device("meta"):
        build_tokenizer(config.model.vq_model)
    PhaseSchedule(config.phases, config.lr_scheduler.params.warmup_steps)


@pytest.mark.parametrize("schema", [ARConfig, TokenizerConfig])
def test_every_key_is_explained(schema):
    """`--help` has a comment on every line that holds a value."""
    config = compose(schema, OmegaConf.create(), [*REQUIRED[schema]], "the test")
    lines = [line for line in help_lines(config) if not line.endswith(":") and not line.strip().startswith("- ")]
    without = [line for line in lines if "# " not in line]
    assert len(lines) > 40
    assert without == []


def test_a_model_size_is_a_few_lines():
    for size in ("l", "xl"):
        own = (ROOT / f"configs/alitok_{size}.yaml").read_text().splitlines()
        assert len([line for line in own if not line.startswith("#")]) <= 6


def test_published_values():
    b = load_ar()
    assert (b.experiment.save_every, b.experiment.generate_every, b.experiment.log_every) == (50000, 5000, 1000)
    assert (b.training.max_train_steps, b.training.per_gpu_batch_size, b.training.seed) == (500_000, 128, 42)
    assert (b.optimizer.params.learning_rate, b.optimizer.params.beta2) == (4e-4, 0.96)
    assert b.lr_scheduler.params.learning_rate == 4e-4
    assert (b.model.generator.guidance_scale, b.model.generator.guidance_scale_pow) == (16.0, 1.8)
    xl = load_config(ARConfig, "", ["config=configs/alitok_xl.yaml"])
    assert (xl.model.generator.guidance_scale, xl.model.generator.guidance_scale_pow) == (13.0, 1.4)
    assert (xl.model.generator.seed, xl.training.max_train_steps) == (2, 250_000)
    stage1 = load_config(TokenizerConfig, "", ["config=configs/tokenizer_stage1.yaml"])
    assert [p.steps for p in stage1.phases] == [50_000, 200_000, 100_000]
    assert [p.gan for p in stage1.phases] == [False, False, True]
    stage2 = load_config(TokenizerConfig, "", ["config=configs/tokenizer_stage2.yaml"])
    assert [p.steps for p in stage2.phases] == [50_000, 150_000, 100_000]
    assert not any(p.clustering for p in stage2.phases)


def load_tokenizer_file(folder: str, stage: int) -> TokenizerConfig:
    return load_config(TokenizerConfig, "", [f"config=configs/{folder}/tokenizer_stage{stage}.yaml"])


def test_version_3_values():
    one, two = (load_tokenizer_file("alitok_v3", stage) for stage in (1, 2))
    assert [sum(phase.steps for phase in config.phases) for config in (one, two)] == [600_000, 300_000]
    assert [config.model.vq_model.decoder.num_learned_tokens for config in (one, two)] == [1, 64]
    for config in (one, two):
        assert config.losses.discriminator_factor * config.losses.discriminator_weight == 0.1
        assert (config.model.vq_model.layout.num_prefix, config.model.vq_model.layout.num_codes) == (16, 272)
    assert one.model.vq_model.prefix_perceptual_weight > 0
    steps = [
        load_config(ARConfig, "", [f"config=configs/alitok_v3/ar_{size}.yaml"]).training.max_train_steps
        for size in ("b", "l", "xl")
    ]
    assert steps == [500_000, 500_000, 250_000]


@pytest.mark.parametrize(("folder", "side", "num_codes"), [("alitok_512_p16", 32, 1056), ("alitok_512_p32", 16, 272)])
def test_sizes_at_512_pixels(folder, side, num_codes):
    for stage in (1, 2):
        settings = load_tokenizer_file(folder, stage).model.vq_model
        assert settings.image_size == 512
        assert (settings.layout.grid, settings.layout.num_codes) == ((side, side), num_codes)


@pytest.mark.parametrize(
    ("folder", "generator"),
    [("alitok_v3", "b"), ("alitok_v3", "l"), ("alitok_v3", "xl"), ("alitok_512_p16", "l"), ("alitok_512_p32", "l")],
)
def test_stages_and_generator_of_a_folder_fit_together(folder, generator):
    one, two = (load_tokenizer_file(folder, stage) for stage in (1, 2))
    ar = load_config(ARConfig, "", [f"config=configs/{folder}/ar_{generator}.yaml"])
    assert ar.model.vq_model == two.model.vq_model
    assert (one.model.vq_model.layout, one.model.vq_model.encoder) == (
        two.model.vq_model.layout,
        two.model.vq_model.encoder,
    )
    assert two.experiment.init_from == f"{one.experiment.output_dir}/model.safetensors"
    assert ar.experiment.tokenizer_checkpoint == f"{two.experiment.output_dir}/model.safetensors"
    assert ar.model.generator.condition_num_classes == 1000
