"""The YAML files of configs/: every key, the published values, models that fit."""

import pytest
from omegaconf import OmegaConf

from modeling.build import build_generator, build_tokenizer, check_fit
from tests.support.paths import ROOT
from train_tokenizer.phases import PhaseSchedule
from utils.config import load_config
from utils.schema import ARConfig, TokenizerConfig

AR_FILES = [f"configs/{name}.yaml" for name in ("alitok_b", "alitok_l", "alitok_xl", "fashion_mnist/ar")]
TOKENIZER_FILES = [
    f"configs/{folder}tokenizer_stage{stage}.yaml" for folder in ("", "fashion_mnist/") for stage in (1, 2)
]


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def load_ar(*arguments: str) -> ARConfig:
    return load_config(ARConfig, "", ["config=configs/alitok_b.yaml", *arguments])


@pytest.mark.parametrize("file", AR_FILES)
def test_generator_files_build_and_fit_their_tokenizer(file):
    import torch

    config = load_config(ARConfig, "", [f"config={file}"])
    with torch.device("meta"):
        check_fit(build_tokenizer(config.model.vq_model), build_generator(config.model.generator))


@pytest.mark.parametrize("file", TOKENIZER_FILES)
def test_tokenizer_files_build(file):
    import torch

    config = load_config(TokenizerConfig, "", [f"config={file}"])
    with torch.device("meta"):
        build_tokenizer(config.model.vq_model)
    PhaseSchedule(config.phases, config.lr_scheduler.params.warmup_steps)


@pytest.mark.parametrize("file", AR_FILES + TOKENIZER_FILES)
def test_files_say_every_key(file):
    """The YAML files are the documentation: they show every key of the schema."""
    schema = TokenizerConfig if "tokenizer" in file else ARConfig
    given = OmegaConf.to_container(OmegaConf.load(file))
    full = OmegaConf.to_container(OmegaConf.structured(load_config(schema, "", [f"config={file}"])))

    def missing(ours: dict, theirs: dict, prefix: str = "") -> list[str]:
        found = []
        for key, value in theirs.items():
            if key not in ours:
                found.append(prefix + key)
            elif isinstance(value, dict):
                found += missing(ours[key], value, f"{prefix}{key}.")
        return found

    # The generator's codebook size is always the tokenizer's; users do not set it.
    assert missing(given, full) in ([], ["model.generator.codebook_size"])


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
