"""Weights, surroundings and names as people have them: a right result, or one line before anything is written."""

import os
import re
import shutil

import numpy as np
import pytest
from safetensors.torch import save_file

from dataset.token_cache.reader import open_token_cache
from tests.support import place_cases, toy
from tests.support.commands import pretokenize, train_ar, train_tokenizer
from tests.support.trainings import generator_trainer
from utils.environment import require_known_environment

# -- numbers that are not finite, codes out of range ------------------------------------------------


def test_weights_that_are_not_finite_are_refused_before_anything_is_written(
    refusal, tmp_path, sampling, few_images, tokenizer_config
):
    weights = place_cases.not_finite(tmp_path / "w")
    message = refusal(*sampling(generator=weights / "generator.safetensors"))
    assert "w/generator.safetensors holds NaN or infinity in blocks.0." in message
    message = refusal(*sampling(tokenizer=weights / "decoder.safetensors"))
    assert "w/decoder.safetensors holds NaN or infinity in decoder." in message
    message = refusal(*pretokenize(few_images, tokenizer_config, weights / "encoder.safetensors", tmp_path / "cache"))
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
        ("--classes", "²", "is named '²'"),
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


# -- files and settings of the surroundings ---------------------------------------------------------


def test_a_damaged_state_file_is_named(refusal, sampling, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out.npz").touch()
    for name, advice in (
        ("sampling.json", "remove it and run again, and also {folder}.npz"),
        ("shards/plan.json", "remove it and run again"),
    ):
        path = tmp_path / "out" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"seed": ')
        message = refusal(*sampling())
        assert f"{path} is damaged (" in message
        assert message.endswith(advice.format(folder=tmp_path / "out"))
        path.unlink()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE=2, but no LOCAL_RANK, MASTER_ADDR, MASTER_PORT: start several"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two is no number"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK=1 is not below WORLD_SIZE=1"),
        ({"LOCAL_RANK": "0"}, "unset LOCAL_RANK"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "set training.gradient_accumulation_steps"),
        ({"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP=true .* set training.fsdp=true"),
        ({"ACCELERATE_USE_DEEPSPEED": "True"}, "ACCELERATE_USE_DEEPSPEED=True .* set training.fsdp=true"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "set training.compile=true"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "set training.mixed_precision"),
    ],
)
def test_the_environment_does_not_change_a_training(refusal, monkeypatch, pretrained, tmp_path, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    line = refusal(*train_ar(pretrained / "ar.yaml", tmp_path, tmp_path / "out"))
    assert re.search(message, line)
    assert not (tmp_path / "out").exists()


def test_what_accelerate_launch_sets_by_default_is_no_obstacle(monkeypatch):
    for name in ("MIXED_PRECISION", "DYNAMO_BACKEND", "USE_CPU"):
        monkeypatch.setenv(f"ACCELERATE_{name}", "no")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    require_known_environment("bf16")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    require_known_environment("bf16")


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
    trainer = generator_trainer(tmp_path, "run", "training.max_train_steps=1")
    trainer.run()
    save_file(toy.tokenizer().state_dict(), tmp_path / "t.safetensors")
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000001"
    arguments = ("--classes", "1", "--tokenizer", tmp_path / "t.safetensors", "--output", tmp_path / "x.png")
    code, out, err = program("sample.py", checkpoint, *arguments)
    assert code == 0, err
    assert "wrote" in out


# -- names of files ---------------------------------------------------------------------------------

NAMES = [b"\xff\xfe.png", "ü.png".encode(), "a\u2028b.png".encode(), b" c \x1c.png", b"d\re.png", b"f'\".png"]


@pytest.fixture
def odd_names(tmp_path):
    """Images with names of any bytes, in a class folder with such a name."""
    images = toy.write_images(tmp_path / "images", per_class=1)
    folder = os.fsencode(images) + b"/train/cl\xe9"
    os.mkdir(folder)
    for name in NAMES:
        shutil.copy(images / "train" / "class_0" / "000.png", folder + b"/" + name)
    return images


@pytest.mark.parametrize("layout", ["packed", "npz"])
def test_names_of_any_bytes_survive(program, odd_names, tokenizer_config, pretrained, tmp_path, layout):
    command = pretokenize(odd_names, tokenizer_config, pretrained / "tokenizer", tmp_path / "cache")
    code, _, err = program(*command, "--format", layout)
    assert code == 0, err
    assert program(*command, "--format", layout)[1].endswith("is complete\n")
    code, _, err = program("pretokenization.py", "--check", tmp_path / "cache", "--check_images", 3)
    assert code == 0, err
    other = {"packed": "npz", "npz": "packed"}[layout]
    convert = ("dataset/token_cache/convert.py", tmp_path / "cache", tmp_path / other, "--layout", other)
    assert program(*convert)[0] == 0
    for cache in map(open_token_cache, (tmp_path / "cache", tmp_path / other)):
        names = [os.fsencode(path) for path in cache.paths()]
        assert {name for name in names if name.startswith(b"cl\xe9/")} == {b"cl\xe9/" + name for name in NAMES}
        assert cache.views(len(names) - 1).shape == (2, toy.NUM_CODES)


def test_names_of_any_bytes_are_told(refusal, odd_names, tokenizer_config, pretrained, tmp_path):
    (odd_names / "train" / os.fsdecode(b"cl\xe9") / os.fsdecode(NAMES[0])).write_bytes(b"no image")
    message = refusal(*pretokenize(odd_names, tokenizer_config, pretrained / "tokenizer", tmp_path / "cache"))
    assert r"train/cl\udce9/\udcff\udcfe.png" in message


@pytest.mark.parametrize("name", ["a\nb.png", f"{'x' * 247}.png"])
def test_names_that_a_cache_cannot_hold_are_refused_at_the_start(
    refusal, few_images, tokenizer_config, pretrained, tmp_path, name
):
    data = shutil.copytree(few_images, tmp_path / "data")
    shutil.copy(data / "train" / "class_0" / "000.png", data / "train" / "class_0" / name)
    command = pretokenize(data, tokenizer_config, pretrained / "tokenizer", tmp_path / "cache", "--format", "npz")
    assert f"the name {f'class_0/{name}'!r} has a line break or is too long" in refusal(*command)
    assert not (tmp_path / "cache").exists()
