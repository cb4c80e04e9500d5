"""Input fields for the settings of sampling. An empty field leaves each model its own value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from demo.models import DemoModel
from sampling.guidance import SCHEDULES
from sampling.masked import DECAYS
from utils.errors import UserError

OWN = "each model's own"


@dataclass(frozen=True)
class Control:
    label: str
    kind: type | tuple[str, ...]  # int, float, a switch, or what can be chosen
    info: str


# The settings that sample.py takes, so that a command line can draw the same images.
CONTROLS = {
    "soft_guidance": Control("Guidance", bool, "SoftCFG: arXiv:2510.00996"),
    "guidance_scale": Control("Guidance scale", float, "towards the class; 0: off"),
    "guidance_scale_pow": Control("Guidance power", float, "larger: guides later"),
    "guidance_schedule": Control("Guidance schedule", tuple(SCHEDULES), "over the codes"),
    "guidance_decay": Control("Guidance decay", DECAYS, "over the sampling steps"),
    "temperature": Control("Temperature", float, "0: the likeliest codes"),
    "top_k": Control("Top-k", int, "the k likeliest codes"),
    "top_p": Control("Top-p", float, "codes together this likely"),
    "num_steps": Control("Sampling steps", int, "passes of a masked generator"),
}


def setting_fields(models: Sequence[DemoModel]) -> dict[str, gr.components.Component]:
    """Fields for the settings that at least one of the models has, by name."""
    return {name: _field(name, control, models) for name, control in CONTROLS.items() if _own_values(name, models)}


def _own_values(name: str, models: Sequence[DemoModel]) -> list[Any]:
    """The values of the setting in the models that have it."""
    return [model.own[name] for model in models if name in model.own]


def _field(name: str, control: Control, models: Sequence[DemoModel]) -> gr.components.Component:
    values = _own_values(name, models)
    own = OWN if len(set(values)) > 1 else "off" if values[0] is None else str(values[0])
    common = {"label": control.label, "info": control.info, "elem_id": name, "min_width": 150}
    if control.kind is bool:
        return gr.Dropdown([("plain", ""), ("SoftCFG", "True")], value="", **common)
    if isinstance(control.kind, tuple):
        return gr.Dropdown([(own, ""), *(kind for kind in control.kind if kind != own)], value="", **common)
    return gr.Textbox(placeholder=own, max_lines=1, **common)


def given_settings(names: Sequence[str], values: Sequence[str]) -> dict[str, Any]:
    """The settings whose fields are filled in. Raises UserError for a text that is no number."""
    return {name: _read(CONTROLS[name], text) for name, text in zip(names, values, strict=True) if text.strip()}


def _read(control: Control, text: str) -> Any:
    if isinstance(control.kind, tuple):
        return text
    try:
        return control.kind(text)
    except ValueError:
        kind = "whole number" if control.kind is int else "number"
        raise UserError(f"{control.label}: '{text}' is no {kind}") from None
