"""Ablations: what is planned from overrides, what stands in the table, and a whole one at toy size."""

import json
import statistics

import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from experiments.ablation.config import AblationConfig
from experiments.ablation.plan import Plan
from experiments.ablation.results import Measure, collect, measures, table
from tests.support import launch, toy
from utils.config import load_config
from utils.errors import UserError
from utils.folder_lock import exclusive_lock

STEPS = "phases=[{name: mse, steps: 3, learning_rate: 1.0e-3}]"


@pytest.fixture
def written(tmp_path):
    """A data set and an ablation of it: a variant of its own, and a second stage on that one's codes."""
    toy.write_images(tmp_path / "images")
    config = {
        "output_dir": str(tmp_path / "out"),
        "data_path": str(tmp_path / "images"),
        "seeds": [3, 5],
        "classifier_epochs": 1,
        "cached_images": 12,
        "cached_val_images": 8,
        "configs": {
            "stage1": str(toy.write_tokenizer_config(tmp_path / "stage1.yaml", 1)),
            "stage2": str(toy.write_tokenizer_config(tmp_path / "stage2.yaml", 2)),
            "ar": str(toy.write_ar_config(tmp_path / "ar.yaml", max_train_steps=3)),
        },
        "overrides": {"stage1": [STEPS], "stage2": [STEPS], "ar": ["training.per_gpu_batch_size=4"]},
        "probes": {"reversed": ["model.generator.code_order=reversed"]},
        "samplings": {"drawn": ["sampling.num_samples=12"]},
        "variants": {
            "short": {
                "title": "(b) short",
                "stage1": ["model.vq_model.num_latent_tokens=4", "model.vq_model.decoder.prefix_head=false"],
            },
            "causal": {"title": "(c) causal"},
            "two": {"title": "(d) two stages", "codes_of": "causal", "second_stage": True},
        },
    }
    path = tmp_path / "ablation.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def plan(path, *overrides: str) -> Plan:
    return Plan(load_config(AblationConfig, "", [f"config={path}", *overrides]))


def test_every_run_has_its_overrides_its_seed_and_sizes_that_fit(written):
    made = plan(written)
    assert [(run.variant, run.seed) for run in made.runs] == [
        (v, s) for s in (3, 5) for v in ("short", "causal", "two")
    ]
    assert [run.num_codes for run in made.runs[:3]] == [4, 7, 7]
    configs = {
        (run.variant, run.seed, path.stem): OmegaConf.load(path)
        for run in made.runs
        for path in (run.folder / "configs").iterdir()
    }
    for (variant, seed, stage), config in configs.items():
        assert config.training.seed == seed or stage == "drawn"
        if stage in ("ar", "reversed", "drawn"):
            codes = {"short": 4}.get(variant, 7)
            assert config.model.generator.image_seq_len == codes
            assert config.model.vq_model.num_latent_tokens == codes
            assert config.training.per_gpu_batch_size == 4
            assert config.model.generator.code_order == ("reversed" if stage == "reversed" else "raster")
            assert config.model.generator.seed == (seed if stage == "drawn" else 42)
        else:
            assert len(config.phases) == 1 and config.phases[0].steps == 3
    # Samples of (d) are drawn with stage 2's decoder, and no AR model is trained for it.
    assert not configs["two", 3, "drawn"].model.vq_model.decoder.causal
    assert configs["causal", 3, "drawn"].model.vq_model.decoder.causal
    assert ("two", 3, "ar") not in configs and ("causal", 3, "reversed") in configs
    names = [step.name for step in made.steps]
    assert len(set(names)) == len(names) and "causal, seed 3: ar" in names


def test_variants_that_share_codes_share_the_steps(written):
    alone, both = (plan(written, "seeds=[3]", f"only=[{only}]") for only in ("two", "causal,two"))
    causal = [step for step in both.steps if step.name.startswith("causal")]
    assert {s.name.split(": ")[1] for s in causal if s in alone.steps} >= {"stage 1", "ar", "reversed"}
    assert len(both.steps) - len(alone.steps) == 3  # reconstructions, samples and evaluation of (c) itself


def test_stage_2_keeps_the_encoder_of_its_codes(written):
    """Also where overrides changed that: with another one the codes would mean something else."""
    made = plan(written, "variants.causal.stage1=[model.vq_model.encoder.num_heads=4,model.vq_model.codebook_size=16]")
    run = made.runs[2]
    configs = [OmegaConf.load(run.folder / "configs" / f"{name}.yaml").model for name in ("stage2", "drawn")]
    for model in configs:
        assert model.vq_model.encoder.num_heads == 4 and model.vq_model.codebook_size == 16
        assert not model.vq_model.decoder.causal
    assert configs[1].generator.codebook_size == 16


def test_inception_judges_too_where_its_weights_are_at_hand(written, tmp_path, monkeypatch):
    run = plan(written).runs[0]
    before = {step.name for step in run.steps}
    monkeypatch.setattr("experiments.ablation.plan.inception_weights", lambda given, download: tmp_path / "weights.pth")
    made = plan(written)
    [step] = [s for s in made.runs[0].steps if s.name not in before]
    assert step.command[step.command.index("--inception") + 1] == str(tmp_path / "weights.pth")
    assert "--classifier" not in step.command and step.inputs[0] == run.folder / "drawn.npz"
    for name, numbers in {
        "tokenizer": {"psnr": 20.0},
        "drawn": {"features": "classifier", "fid": 1.0},
        step.outputs[0].stem: {"features": "Inception", "fid": 30.0},
    }.items():
        (run.folder / f"{name}.json").write_text(json.dumps(numbers))
    for name in ("ar", "reversed"):
        (run.folder / name).mkdir()
        (run.folder / name / "metrics.jsonl").write_text('{"step": 1, "val_loss": 2.0, "val_accuracy": 0.5}\n')
    row = collect(run, made.config)
    assert row["drawn_fid"] == 1.0 and row["drawn_inception_fid"] == 30.0 and row["nats_per_image"] == 8.0
    assert "drawn_inception_fid" in {column.key for column in measures(made.config)}


def test_a_small_classifier_as_loss_is_another_one_than_the_judge(written):
    made = plan(written, "only=[causal]", "seeds=[3]", "overrides.stage1=[losses.perceptual_model=small_classifier]")
    judge, other = (next(s for s in made.steps if s.outputs == (p,)) for p in (made.classifier, made.loss_classifier))
    assert judge.command[judge.command.index("--seed") + 1] != other.command[other.command.index("--seed") + 1]
    assert next(s for s in made.steps if s.name == "causal, seed 3: stage 1").needs(other)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "overrides.ar=[training.max_train_step=3]",
            "did you mean 'training.max_train_steps'",
        ),
        ("variants.two.codes_of=three", "variants.two.codes_of: 'three' is no variant with codes of its own"),
        ("variants.two.ar=[training.seed=1]", "'causal': overrides of stage1 and ar go there"),
        ("variants.causal.stage2=[training.seed=1]", "but second_stage is false"),
        ("variants.two.title=(c) causal", "one comes twice"),
        ("jobs=0", "jobs is 0; it must be at least 1"),
        ("samplings.reversed=[sampling.top_k=1]", "'reversed' is taken already"),
        ("probes.ar=[training.seed=1]", "'ar' is taken already"),
        ("overrides.ar=[model.generator.hidden_size=30]", "hidden_size 30 is not a multiple"),
        ("variants.short.stage1=[model.vq_model.image_size=32]", "image_size differs"),
        ("only=[causl]", "there is no variant 'causl'; did you mean 'causal'"),
        ("seeds=[1,1]", "one comes twice"),
        ("seeds=[]", "lists none"),
    ],
)
def test_mistakes_are_found_before_anything_runs(written, override, message):
    with pytest.raises(UserError, match=message):
        plan(written, override)


def test_a_second_start_in_one_folder_touches_nothing(written, tmp_path):
    with exclusive_lock(tmp_path / "out"):
        result = launch.run("-m", "experiments.ablation.run", f"config={written}", check=False)
    assert result.returncode == 2 and "another run is at work in" in result.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".lock"]


def test_the_table_gives_mean_and_standard_deviation_over_seeds():
    rows = [{"title": t, "x": x} for t, x in (("a", 0.1), ("a", 0.2), ("a", 0.6), ("b", 1.0))]
    lines = table(rows, [Measure("x, %", "x", 1, "lower", 100)]).splitlines()
    assert lines[0] == "| | a | b |"
    assert lines[2] == f"| x, % | 30.0 ± {100 * statistics.stdev([0.1, 0.2, 0.6]):.1f} | 100.0 |"


def test_a_whole_ablation_and_a_second_start_that_finds_it_done(written, tmp_path):
    command = ("-m", "experiments.ablation.run", f"config={written}", "seeds=[3]", "jobs=2", "only=[causal,two]")
    first = launch.run(*command)
    rows = [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert [row["variant"] for row in rows] == ["causal", "two"]
    causal, two = rows
    assert causal["nats_per_code"] == two["nats_per_code"] and causal["psnr"] != two["psnr"]
    assert causal["nats_per_image"] == pytest.approx(7 * causal["nats_per_code"])
    assert causal["reversed_gap"] != 0 and 0 <= causal["drawn_agreement"] <= 1
    assert first.stdout.count("causal, seed 3: PSNR") == 1
    out = tmp_path / "out"
    assert (out / "table.md").read_text().strip() in first.stdout
    for name in ("measures.png", "reconstructions.png", "drawn.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 100, name
    second = launch.run(*command)
    count = sum(line.endswith("done before") for line in second.stdout.splitlines())
    assert f"/{count}] " in second.stdout and count > 10
    assert (out / "table.md").read_text().strip() in second.stdout
