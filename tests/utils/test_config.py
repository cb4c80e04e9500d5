"""Configurations: overrides, and errors that name the mistake."""

import pytest

from tests.support.paths import ROOT
from utils.config import load_config
from utils.errors import UserError
from utils.schema import ARConfig, TokenizerConfig


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def load_ar(*arguments: str) -> ARConfig:
    return load_config(ARConfig, "", ["config=configs/alitok_b.yaml", *arguments])


def test_overrides_reach_every_kind_of_key():
    config = load_ar(
        "training.per_gpu_batch_size=64",
        "experiment.resume=auto",
        "training.max_grad_norm=null",
        "model.vq_model.codebook_size=1024",
        "optimizer.params.learning_rate=1e-3",
    )
    assert config.training.per_gpu_batch_size == 64
    assert config.experiment.resume == "auto"
    assert config.training.max_grad_norm is None
    assert load_ar("lr_scheduler.params.end_lr=${optimizer.params.weight_decay}").lr_scheduler.params.end_lr == 0.03
    assert config.model.generator.codebook_size == 1024  # follows the tokenizer's
    assert config.lr_scheduler.params.learning_rate == 1e-3  # follows the optimizer's
    stage1 = load_config(TokenizerConfig, "", ["config=configs/tokenizer_stage1.yaml", "phases.1.steps=7"])
    assert [p.steps for p in stage1.phases] == [50_000, 7, 100_000]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("training.per_gpu_batchsize=3", "'training.per_gpu_batchsize'.*did you mean 'training.per_gpu_batch_size'"),
        ("traning.seed=3", "'traning.*did you mean 'training"),
        ("model.generator.hiden_size=3", "did you mean 'model.generator.hidden_size'"),
        ("training.seed=soon", "training.seed"),
        ("model.generator.name=rar", "unknown generator 'rar'"),
        ("config=configs/alitok_bb.yaml", "not found.*did you mean 'configs/alitok_b.yaml'"),
        ("--batch", "cannot read the argument '--batch'"),
        ("training=null", "training"),
        ("training.per_gpu_batch_size=0", "training.per_gpu_batch_size is 0; it must be at least 1"),
        ("lr_scheduler.params.end_lr=${optimizer.parms.x}", "end_lr"),
        ("training.max_grad_norm=0", "training.max_grad_norm is 0.0; it must be above 0"),
        ("training.seed=4294967296", "training.seed is 4294967296; it must be below 4294967296"),
        ("training.ema_decay=1.5", "training.ema_decay is 1.5; it must be at most 1"),
        ("optimizer.params.beta2=1", "optimizer.params.beta2 is 1.0; it must be below 1"),
    ],
)
def test_mistakes_are_named(argument, message):
    with pytest.raises(UserError, match=message) as caught:
        load_ar(argument)
    assert "\n" not in str(caught.value)


def test_misspelt_key_in_a_file(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("experiment: {output_dir: o}\nphases: [{name: a, step: 5}]\n")
    with pytest.raises(UserError, match=r"'step'.*did you mean 'steps'"):
        load_config(TokenizerConfig, "", [f"config={file}"])
    file.write_text("experiment: [")
    with pytest.raises(UserError, match="no valid YAML"):
        load_config(TokenizerConfig, "", [f"config={file}"])
