"""Weights, outputs and surroundings as people have them: a right result, or one line before anything is written."""

import numpy as np
import pytest
from safetensors.torch import save_file

from tests.support import place_cases, toy
from tests.support.commands import pretokenize, sample_imagenet, train_ar, train_tokenizer
from tests.support.trainings import generator_trainer


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return toy.write_images(tmp_path_factory.mktemp("data") / "images", per_class=2)


@pytest.fixture(scope="module")
def tokenizer_config(tmp_path_factory):
    return toy.write_tokenizer_config(tmp_path_factory.mktemp("config") / "2.yaml", 2)


@pytest.fixture
def sampling(pretrained, tmp_path):
    """sampling(generator=..., tokenizer=...) -> the command that draws samples into tmp_path/out."""
    good = {name: pretrained / name / "model.safetensors" for name in ("generator", "tokenizer")}

    def command(*overrides, **weights):
        files = good | weights
        arguments = (pretrained / "ar.yaml", files["generator"], files["tokenizer"], tmp_path / "out")
        return sample_imagenet(*arguments, *overrides)

    return command


# -- numbers that are not finite, codes out of range ------------------------------------------------


def test_weights_that_are_not_finite_are_refused_before_anything_is_written(
    refusal, tmp_path, sampling, images, tokenizer_config
):
    weights = place_cases.not_finite(tmp_path / "w")
    message = refusal(*sampling(generator=weights / "generator.safetensors"))
    assert "w/generator.safetensors holds NaN or infinity in blocks.0." in message
    message = refusal(*sampling(tokenizer=weights / "decoder.safetensors"))
    assert "w/decoder.safetensors holds NaN or infinity in decoder." in message
    message = refusal(*pretokenize(images, tokenizer_config, weights / "encoder.safetensors", tmp_path / "cache"))
    assert "w/encoder.safetensors holds NaN or infinity in encoder." in message
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_codes_outside_the_codebook_name_cache_and_row(refusal, tmp_path, pretrained):
    cache = toy.write_token_cache(tmp_path / "cache")
    shard = cache / "codes" / "00001.npy"
    codes = np.load(shard)
    codes[3, 1, 2] = toy.CODEBOOK_SIZE
    np.save(shard, codes)
    message = refusal(*train_ar(pretrained / "ar.yaml", cache, tmp_path / "out"))
    assert "b/13.png has the code 32, the codebook has 32" in message
    assert not (tmp_path / "out").exists()
    np.save(cache / "labels.npy", np.arange(24) % 5)
    message = refusal(*train_ar(pretrained / "ar.yaml", cache, tmp_path / "out"))
    assert "the label of a/4.png is 4" in message


def test_a_cache_of_one_code_is_the_work_of_a_broken_tokenizer(refusal, tmp_path):
    cache = toy.write_token_cache(tmp_path / "cache")
    for shard in (cache / "codes").iterdir():
        np.save(shard, np.zeros_like(np.load(shard)))
    (cache / "SHA256SUMS").unlink()
    assert "every code is 0" in refusal("pretokenization.py", "--check", cache)


# -- values out of range ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--seed", "99999999999999999999999", "argument --seed: is 99999999999999999999999; it must be below"),
        ("--seed", "-1", "argument --seed: is -1; it must be at least 0"),
        ("--guidance_scale", "nan", "argument --guidance_scale: is nan; it must be a finite number"),
        ("--temperature", "inf", "argument --temperature: is inf; it must be a finite number"),
        ("--top_p", "2", "argument --top_p: is 2.0; it must be at most 1"),
        ("--top_p", "much", "argument --top_p: invalid float value: 'much'"),
        ("--classes", "²", "'²' is not a number"),
        ("--classes", "99999999999999999999999", "class 99999999999999999999999 is out of range"),
    ],
)
def test_numbers_on_the_command_line_have_ranges(refusal, pretrained, tmp_path, flag, value, message):
    arguments = ["sample.py", pretrained / "hub", "--classes", "1", "--output", tmp_path / "x.png"]
    assert message in refusal(*arguments, flag, value)
    assert not (tmp_path / "x.png").exists()


def test_a_negative_rate_of_a_phase(refusal, tmp_path):
    config = toy.write_tokenizer_config(tmp_path / "1.yaml", 1)
    command = train_tokenizer(config, tmp_path, tmp_path / "out", "phases[0].learning_rate=-1")
    assert "phases.0.learning_rate is -1.0; it must be at least 0" in refusal(*command)


# -- weights as other programs wrap them ------------------------------------------------------------


def test_programs_take_wrapped_weights_and_folders(program, tmp_path, sampling, pretrained):
    weights = place_cases.wrapped_weights(tmp_path / "w", toy.generator().state_dict())
    code, _, err = program(*sampling(generator=weights / "lightning.ckpt", tokenizer=pretrained / "tokenizer"))
    assert code == 0, err
    assert "lightning.ckpt: names without 'model.'" in err
    code, out, err = program(*sampling(generator=pretrained / "hub"))
    assert code == 0, err
    assert "out.npz is complete" in out  # the same weights


def test_a_checkpoint_is_enough_for_a_picture(program, tmp_path):
    trainer = generator_trainer(tmp_path, "run", "experiment.save_every=4")
    trainer.run()
    save_file(toy.tokenizer().state_dict(), tmp_path / "t.safetensors")
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000004"
    arguments = ("--classes", "1", "--tokenizer", tmp_path / "t.safetensors", "--output", tmp_path / "x.png")
    code, out, err = program("sample.py", checkpoint, *arguments)
    assert code == 0, err
    assert "wrote" in out
