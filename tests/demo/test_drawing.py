"""Images while their codes are drawn, and the command line that draws them again."""

import shlex
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from demo.drawing import Drawing, draw
from demo.models import load_models
from demo.pictures import picture
from sampling.pretrained_folder import save_pretrained
from tests.support import toy
from utils.errors import UserError


def drawing(**changes) -> Drawing:
    return Drawing(**{"classes": (1, 3), "per_class": 2, "seed": 7, "settings": {}, **changes})


def pixels(image: Image.Image, scale: int) -> np.ndarray:
    """One pixel of each enlarged one."""
    return np.array(image)[scale // 2 :: scale, scale // 2 :: scale]


def test_a_frame_for_each_row_of_codes(models):
    frames = list(draw(models[0], drawing()))
    assert [frame.drawn for frame in frames] == [4 * (9 + 8 * row) for row in range(1, 9)]
    assert [frame.finished for frame in frames] == [False] * 7 + [True]
    assert "drawing: 68 codes in " in frames[0].text
    assert all(b.seconds > a.seconds for a, b in pairwise(frames))
    images = models[0].pipeline.generate([1, 1, 3, 3], seed=7)
    assert frames[-1].picture.tobytes() == picture(images, 2).tobytes()
    assert frames[0].picture.tobytes() != frames[-1].picture.tobytes()


def test_masked_generators_show_their_sampling_steps(models):
    frames = list(draw(models[1], drawing(settings={"num_steps": 4, "top_k": 3})))
    assert len(frames) == 4
    assert frames[-1].drawn == 4 * 73


@pytest.mark.parametrize("number", [0, 1])
def test_the_command_draws_the_same_images(number, models, program, tmp_path):
    settings = {"temperature": 0.8, "guidance_scale": 3.0, "soft_guidance": True, "num_steps": 3}
    wanted = drawing(settings=settings)
    *_, last = draw(models[number], wanted)
    python, *command = shlex.split(wanted.command(models[number]))
    assert python == "python"
    code, _, err = program(*command, "--output", tmp_path / "out.png", "--device", "cpu")
    assert code == 0, err
    ours, theirs = pixels(last.picture, 640 // 70), pixels(Image.open(tmp_path / "out.png"), 96 // 32)
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # another batch size may round otherwise


def test_commands_have_only_settings_of_the_model(models):
    words = [shlex.split(drawing(settings={"num_steps": 3, "top_k": 5}).command(model)) for model in models]
    assert words[0][-2:] == ["--top_k", "5"]
    assert words[1][-2:] == ["--num_steps", "3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ()}, "choose at least one class"),
        ({"per_class": 5}, "2 classes with 5 images each: at most 8 images"),
        ({"per_class": 0}, "at least 1"),
        ({"seed": -1}, "the seed is -1"),
        ({"classes": (4,)}, "class 4 is out of range"),
        ({"settings": {"temperature": -1.0}}, "demo.*/ar: temperature is -1.0"),
    ],
)
def test_what_a_browser_sends_is_checked(changes, message, models):
    with pytest.raises(UserError, match=message):
        list(draw(models[0], drawing(**changes)))


def test_recorded_work_stays_while_the_settings_do(models):
    one = models[0].with_settings({"top_k": 3})
    assert models[0].with_settings({"top_k": 3, "num_steps": 2}) is one
    assert models[0].with_settings({"top_k": 4}) is not one


def test_only_models_of_as_many_classes_are_compared(folders, tmp_path):
    save_pretrained(tmp_path, toy.tokenizer(), toy.generator(condition_num_classes=5))
    with pytest.raises(UserError, match=r"ar has 4, .* has 5; compare models of one data set"):
        load_models([str(folders[0]), str(tmp_path)], device="cpu")
