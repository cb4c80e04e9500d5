"""The grid of a sweep: values of some settings of the decoder, and each combination of them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sampling.decoding import DecoderSettings
from utils.errors import UserError, first_line, nearest

Point = dict[str, Any]  # setting -> value


def typed_axes(base: DecoderSettings, axes: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Axes with values of the types that the decoder's settings declare; axes that are None or empty are left out.

    axes: name of a setting -> list of values, or one value, perhaps as text. Raises UserError.
    """
    known = [field.name for field in fields(base)]
    schema = OmegaConf.structured(type(base))
    typed: dict[str, list[Any]] = {}
    for name, values in axes.items():
        if name not in known:
            raise UserError(f"axes: there is no setting '{name}'{nearest(name, known)} (choose {', '.join(known)})")
        for value in values if isinstance(values, Sequence) and not isinstance(values, str) else [values]:
            try:
                merged = OmegaConf.merge(schema, {name: value})
                setting = getattr(replace(base, **{name: merged[name]}), name)
            except (OmegaConfBaseException, ValueError) as error:
                raise UserError(f"axes: {first_line(error)}") from error
            if setting not in typed.setdefault(name, []):
                typed[name].append(setting)
    return typed


def grid(axes: Mapping[str, list[Any]]) -> list[Point]:
    """All combinations, the last axis fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def settings_of(base: DecoderSettings, point: Point) -> DecoderSettings:
    """The settings of a point. Without guidance its power, schedule and kind decide nothing: such points keep the
    configured ones, and are drawn once."""
    changed = {**point}
    if changed.get("guidance_scale", base.guidance_scale) == 0:
        changed = {name: value for name, value in point.items() if name == "guidance_scale" or "guidance" not in name}
    return replace(base, **changed)


def point_name(settings: DecoderSettings, base: DecoderSettings) -> str:
    """Name of a folder: what differs from the configured settings, so that a larger grid finds finished points."""
    values = {field.name: (getattr(settings, field.name), getattr(base, field.name)) for field in fields(base)}
    return ",".join(f"{name}={value}" for name, (value, configured) in values.items() if value != configured) or "base"
