"""Fields for the settings of sampling."""

import gradio as gr
import pytest

from demo.controls import CONTROLS, given_settings, setting_fields
from demo.draw_tab import DrawTab
from sample import SETTINGS
from utils.errors import UserError


def test_the_settings_of_sample_py_have_fields():
    assert set(CONTROLS) == set(SETTINGS)


def test_fields_show_what_the_models_do(models):
    fields = setting_fields(models[:1])
    assert "num_steps" not in fields
    assert fields["guidance_scale"].placeholder == "2.0"
    assert fields["top_k"].placeholder == "off"
    both = setting_fields(models)
    assert both.keys() == CONTROLS.keys()
    assert both["guidance_scale"].placeholder == "each model's own"


def test_filled_fields_become_settings():
    names = ("soft_guidance", "temperature", "top_k", "guidance_schedule")
    assert given_settings(names, ("", " ", "", "")) == {}
    given = given_settings(names, ("True", "0.5", "8", "linear"))
    assert given == {"soft_guidance": True, "temperature": 0.5, "top_k": 8, "guidance_schedule": "linear"}
    with pytest.raises(UserError, match=r"Top-k: '1\.5' is no whole number"):
        given_settings(["top_k"], ["1.5"])


def test_what_a_stopped_drawing_says(models):
    with gr.Blocks():
        tab = DrawTab(models)
    said = tab._say_stopped("drawing: 8 codes in 1.00 s, 8 codes/s", "nothing drawn yet")
    assert [*said.values()] == ["stopped: 8 codes in 1.00 s, 8 codes/s", "nothing drawn yet"]
