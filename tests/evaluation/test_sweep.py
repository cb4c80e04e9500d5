"""`python -m evaluation.sweep_guidance` with toy models, and its grid, table and picture."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation import sweep_guidance
from evaluation.evaluate_samples import SampleEvaluation
from evaluation.extractors import ClassifierExtractor
from evaluation.sweep_axes import grid, point_name, settings_of, typed_axes
from evaluation.sweep_report import best, heat_map, overrides, table
from modeling.frozen.small_classifier import Classifier, save_classifier
from sampling.masked import MaskedSettings
from sampling.pipeline import Pipeline
from sampling.settings import SamplingSettings
from tests.support import toy
from tests.support.launch import run
from utils.errors import UserError
from utils.images import to_bytes

COUNT = 70
BASE = SamplingSettings(guidance_scale=4.0, guidance_scale_pow=0.5)


def test_axes_are_any_settings_of_the_decoder():
    axes = typed_axes(BASE, {"guidance_scale": ["2", 4], "top_p": ["0.5", None], "guidance_schedule": "linear"})
    assert axes == {"guidance_scale": [2.0, 4.0], "top_p": [0.5, None], "guidance_schedule": ["linear"]}
    assert len(grid(axes)) == 4
    assert grid(axes)[1] == {"guidance_scale": 2.0, "top_p": None, "guidance_schedule": "linear"}
    assert typed_axes(MaskedSettings(), {"num_steps": ["8", "16"]}) == {"num_steps": [8, 16]}
    with pytest.raises(UserError, match=r"no setting 'top_q'; did you mean 'top_p'\? \(choose guidance_scale,"):
        typed_axes(BASE, {"top_q": [1]})
    with pytest.raises(UserError, match=r"axes: top_p is 2.0, but must be in \(0, 1\]"):
        typed_axes(BASE, {"top_p": ["2"]})
    with pytest.raises(UserError, match="axes: Value 'x'"):
        typed_axes(BASE, {"top_p": ["x"]})


def test_points_that_draw_the_same_have_one_name():
    unguided = [settings_of(BASE, {"guidance_scale": 0.0, "guidance_scale_pow": power}) for power in (0.5, 1.0)]
    assert unguided[0] == unguided[1]
    soft = settings_of(BASE, {"guidance_scale": 0.0, "soft_guidance": True, "guidance_schedule": "linear"})
    assert soft == unguided[0]
    assert settings_of(replace(BASE, guidance_scale=0.0), {"soft_guidance": True, "top_k": 5}) == replace(
        BASE, guidance_scale=0.0, top_k=5
    )
    named = settings_of(BASE, {"guidance_scale": 4.0, "guidance_scale_pow": 1.0, "temperature": 1.0})
    assert point_name(named, BASE) == "guidance_scale_pow=1.0"
    assert point_name(BASE, BASE) == "base"


POINTS = grid({"guidance_scale": [2.0, 4.0], "guidance_scale_pow": [0.5, 1.0], "temperature": [1.0, 1.1]})
RESULTS = [{"fid": abs(i - 5) + 1.0, "inception_score": float(i)} for i in range(len(POINTS))]


def test_the_best_settings_are_overrides_to_paste():
    assert best(RESULTS, "fid") == 5
    assert best(RESULTS, "inception_score") == 7
    assert overrides({**POINTS[5], "top_p": None}) == (
        "model.generator.guidance_scale=4.0 model.generator.guidance_scale_pow=0.5"
        " model.generator.randomize_temperature=1.1 sampling.top_p=null"
    )
    lines = table(POINTS, RESULTS).splitlines()
    assert len(lines) == 2 + len(POINTS)
    assert lines[0] == "| guidance_scale | guidance_scale_pow | temperature | Inception Score | FID |"
    assert lines[7] == "| 4.0 | 0.5 | 1.1 | 5 | **1** |"


def test_the_heat_map_is_drawn_for_one_axis_and_for_three(tmp_path):
    axes = {"guidance_scale": [2.0, 4.0], "guidance_scale_pow": [0.5, 1.0], "temperature": [1.0, 1.1]}
    heat_map(axes, POINTS, RESULTS, tmp_path / "three.png")
    heat_map({"temperature": [1.0, 1.1]}, grid({"temperature": [1.0, 1.1]}), RESULTS[:2], tmp_path / "one.png")
    sizes = [Image.open(tmp_path / f"{name}.png").size for name in ("three", "one")]
    assert sizes[0][1] > sizes[1][1] > 100


@pytest.fixture(scope="module")
def command(tmp_path_factory, pretrained) -> list[str]:
    folder = tmp_path_factory.mktemp("sweep")
    torch.manual_seed(0)
    save_classifier(folder / "c.safetensors", Classifier(toy.NUM_CLASSES), toy.IMAGE_SIZE, 0.5)
    shape = (100, toy.IMAGE_SIZE, toy.IMAGE_SIZE, 3)
    np.savez(folder / "reference.npz", arr_0=np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return [
        f"config={pretrained / 'ar.yaml'}",
        f"generator={pretrained / 'generator' / 'model.safetensors'}",
        f"tokenizer={pretrained / 'tokenizer' / 'model.safetensors'}",
        f"reference={folder / 'reference.npz'}",
        f"classifier={folder / 'c.safetensors'}",
        f"num_samples={COUNT}",
        "metrics=[is,fid,pr,agreement]",
        "batch_size=16",
    ]


def values_of(folder: Path) -> list[dict[str, float]]:
    return [point["values"] for point in json.loads((folder / "sweep.json").read_text())["points"]]


def test_a_sweep_resumes_and_grows(program, command, tmp_path, monkeypatch):
    script, output = "evaluation/sweep_guidance.py", tmp_path / "sweep"
    drawn = []
    draw = sweep_guidance.draw_features

    def counted(*arguments):
        drawn.append(arguments[4])
        if len(drawn) == 2:
            raise KeyboardInterrupt
        draw(*arguments)

    monkeypatch.setattr("evaluation.sweep_points.draw_features", counted)
    arguments = [*command, f"output_dir={output}", "powers=[1.0]"]
    with pytest.raises(KeyboardInterrupt):
        program(script, *arguments, "scales=[0,3]")
    code, out, err = program(script, *arguments, "scales=[0,3]")
    assert code == 0, err
    assert [title.split("] ")[1] for title in drawn] == [
        "guidance_scale=0.0",
        "guidance_scale=3.0",
        "guidance_scale=3.0",
    ]
    assert "[1/2] guidance_scale=0.0: done before" in out
    assert "model.generator.guidance_scale=" in out.splitlines()[-2]
    assert {path.name for path in output.iterdir()} == {"points", "sweep.json", "sweep.md", "sweep.png"}
    first = values_of(output)
    code, _, _ = program(script, *arguments, "scales=[0,3]", "temperatures=[1.0,0]")
    assert code == 0
    assert len(drawn) == 5  # two new points
    assert values_of(output)[::2] == first
    program(script, *arguments, "scales=[0,3]", "metrics=[agreement,pr,fid,is]")
    assert len(drawn) == 5
    code, _, err = program(script, *arguments, "scales=[0,3]", "seed=5")
    assert code == 2
    assert "was made otherwise: seed is 42 there, 5 now" in err


def test_a_point_has_the_values_of_the_evaluator(program, command, pretrained, tmp_path):
    program("evaluation/sweep_guidance.py", *command, f"output_dir={tmp_path / 'sweep'}", "axes.top_k=[5]")
    [values] = values_of(tmp_path / "sweep")
    weights = {name: pretrained / name / "model.safetensors" for name in ("generator", "tokenizer")}
    options = {"tokenizer": weights["tokenizer"], "config": pretrained / "ar.yaml", "settings": {"top_k": 5}}
    pipeline = Pipeline.from_pretrained(weights["generator"], **options)
    classes = [i % toy.NUM_CLASSES for i in range(COUNT)]
    np.savez(tmp_path / "s.npz", arr_0=to_bytes(pipeline.generate(classes)).numpy(), arr_1=np.array(classes))
    files = {item.partition("=")[0]: item.partition("=")[2] for item in command}
    evaluation = SampleEvaluation(files["reference"], tmp_path / "s.npz", ("is", "fid", "pr", "agreement"))
    expected = evaluation.run(ClassifierExtractor(files["classifier"]), 64)
    assert values == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert not math.isnan(values["fid"])


@pytest.mark.slow
def test_two_processes_give_the_values_of_one(program, command, tmp_path):
    arguments = [[*command, f"output_dir={tmp_path / name}", "scales=[0,3]"] for name in ("one", "two")]
    program("evaluation/sweep_guidance.py", *arguments[0])
    run("-m", "evaluation.sweep_guidance", *arguments[1], processes=2)
    one, two = ([values["fid"] for values in values_of(tmp_path / name)] for name in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-4)
    assert one[0] != one[1]


def test_mistakes_are_one_line(refusal, command, tmp_path):
    script, output = "evaluation/sweep_guidance.py", f"output_dir={tmp_path}"
    assert "nothing to sweep: set scales, powers" in refusal(script, *command, output)
    assert "rank_by is 'fdi': choose inception_score | fid" in refusal(script, *command, output, "rank_by=fdi")
    assert "rank_by is 'fid_low': choose" in refusal(script, *command, output, "rank_by=fid_low")
    twice = ("scales=[1]", "axes.guidance_scale=[2]")
    assert "axes.guidance_scale is given twice" in refusal(script, *command, output, *twice)
    assert "unknown configuration key 'scale'" in refusal(script, *command, output, "scale=[1]")
    assert "no value for output_dir: set it on the command line" in refusal(script, *command)
