"""Ablations: the jobs and configurations of a plan, the table, and a whole ablation at toy size."""

import json
import statistics
from pathlib import Path
from typing import BinaryIO

import pytest
import yaml
from PIL import Image

from experiments import job_runner
from experiments.ablation.config import AblationConfig
from experiments.ablation.plan import Run, plan
from experiments.ablation.results import Measure, differences, steps_at_mean_colour, table
from experiments.job_runner import Job
from tests.support import launch, toy
from tests.support.forked import Script
from tests.support.paths import ROOT
from train_generator.config import ARConfig
from train_tokenizer.config import TokenizerConfig
from utils.config import load_config
from utils.errors import UserError
from utils.folder_lock import exclusive_lock

PHASES = "phases=[{name: mse, steps: 3, learning_rate: 1.0e-3}]"


@pytest.fixture
def written(tmp_path):
    """The file of an ablation of a toy data set: two variants, and a second stage on the codes of one of them."""
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
        "overrides": {"stage1": [PHASES], "stage2": [PHASES], "ar": ["training.per_gpu_batch_size=4"]},
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


def make_plan(path, *overrides: str) -> tuple[list[Run], list[Job]]:
    return plan(load_config(AblationConfig, "", [f"config={path}", *overrides]))


def find_config(run: Run, name: str) -> ARConfig | TokenizerConfig:
    """The configuration that a job of the run composes from its command."""
    [job] = [job for job in run.jobs if job.name.endswith(f", seed {run.seed}: {name}")]
    schema = TokenizerConfig if name.startswith("stage") else ARConfig
    return load_config(schema, "", list(job.command[1:]))


def test_every_run_has_its_overrides_its_seed_and_sizes_that_fit(written):
    runs, jobs = make_plan(written)
    assert [(run.variant, run.seed) for run in runs] == [(v, s) for s in (3, 5) for v in ("short", "causal", "two")]
    assert [run.num_codes for run in runs[:3]] == [4, 7, 7]
    for run in runs:
        stage1 = find_config(run, "stage 1")
        assert stage1.training.seed == run.seed
        assert [phase.steps for phase in stage1.phases] == [3]
        for name in ("ar", "reversed", "drawn"):
            config = find_config(run, name)
            assert config.model.vq_model.layout.num_codes == run.num_codes
            assert config.model.generator.condition_num_classes == 4
            assert config.model.vq_model.num_latent_tokens == run.num_codes
            assert config.training.per_gpu_batch_size == 4
            assert config.model.generator.code_order == ("reversed" if name == "reversed" else "raster")
            assert config.model.generator.seed == (run.seed if name == "drawn" else 42)
            assert config.training.seed == (42 if name == "drawn" else run.seed)
    _, causal, two = runs[:3]
    assert find_config(two, "stage 2").training.seed == 3
    assert [phase.steps for phase in find_config(two, "stage 2").phases] == [3]
    # Samples of (d) are decoded by stage 2, and no generator is trained for it.
    assert not find_config(two, "drawn").model.vq_model.decoder.causal
    assert find_config(causal, "drawn").model.vq_model.decoder.causal
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    assert "causal, seed 3: reversed" in names
    assert "two, seed 3: ar" not in names


def test_variants_that_share_codes_share_the_jobs(written):
    (_, one), (_, both) = (make_plan(written, "seeds=[3]", f"only=[{only}]") for only in ("two", "causal,two"))
    causal = [job for job in both if job.name.startswith("causal")]
    assert {job.name.split(": ")[1] for job in causal if job in one} >= {"stage 1", "ar", "reversed"}
    assert len(both) - len(one) == 4  # reconstructions, influence, samples and evaluation of (c) itself


@pytest.mark.parametrize(
    "name", ["fashion_mnist/ablation", "pictures_64/ablation", "fashion_mnist/start", "pictures_64/start"]
)
def test_the_ablations_of_the_documents_compose(written, monkeypatch, name):
    monkeypatch.chdir(ROOT)
    images = yaml.safe_load(written.read_text())["data_path"]
    config = load_config(
        AblationConfig, "", [f"config=configs/{name}.yaml", f"data_path={images}", "classifier_data=null"]
    )
    runs, _ = plan(config)
    assert len(runs) == len(config.seeds) * len(config.only or config.variants)


def test_tokenizers_can_be_compared_alone(written):
    config = yaml.safe_load(written.read_text())
    del config["configs"]["ar"], config["overrides"]["ar"], config["probes"], config["samplings"]
    alone = written.with_name("alone.yaml")
    alone.write_text(yaml.safe_dump(config | {"generators": False}))
    _, jobs = make_plan(alone, "seeds=[3]")
    names = {job.name.split(": ")[-1] for job in jobs}
    assert names == {"classifier", "reference images", "stage 1", "stage 2", "reconstructions", "influence of codes"}
    with pytest.raises(UserError, match="probes and samplings need generators"):
        make_plan(written, "generators=false")
    with pytest.raises(UserError, match=r"variants\.causal has overrides of ar, but generators is false"):
        make_plan(alone, "variants.causal.ar=[training.seed=1]")


def test_steps_at_the_mean_colour_are_those_that_explain_little(tmp_path):
    log = [(20, -0.2), (40, 0.05), (60, 0.3), (80, 0.09), (100, 0.5)]
    lines = [{"step": step, "explained": share, "loss": 1.0} for step, share in log] + [{"step": 100, "val_psnr": 20.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert steps_at_mean_colour(tmp_path) == 60
    assert steps_at_mean_colour(tmp_path / "absent") is None


def test_a_variant_can_have_its_own_generator_on_the_codes_of_another(written):
    own = "variants.short={title: other, codes_of: causal, stage1: [], ar: [model.generator.code_order=reversed]}"
    runs, jobs = make_plan(written, "seeds=[3]", own, "probes={}")
    names = [job.name for job in jobs]
    assert names.count("causal, seed 3: stage 1") == 1
    assert "short, seed 3: stage 1" not in names
    assert find_config(runs[0], "ar").model.generator.code_order == "reversed"
    assert find_config(runs[0], "drawn").model.generator.code_order == "reversed"
    assert find_config(runs[1], "ar").model.generator.code_order == "raster"


def test_a_trained_tokenizer_takes_the_place_of_stage_1(written, tmp_path):
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "config.yaml").write_text((tmp_path / "stage1.yaml").read_text())
    own = f"variants.short={{title: other, tokenizer: {tmp_path}/trained, stage1: []}}"
    (run, _), jobs = make_plan(written, "only=[short]", own)
    names = [job.name for job in jobs]
    assert "short, seed 3: stage 1" not in names
    assert names.count("short: codes, train split") == 1
    assert names.index("short: codes, train split") < names.index("short, seed 3: ar")
    assert find_config(run, "ar").experiment.tokenizer_checkpoint == f"{tmp_path}/trained/model.safetensors"


def test_a_trained_tokenizer_is_looked_for_beside_the_file(written, tmp_path):
    (tmp_path / "trained").mkdir()
    given = yaml.safe_load(written.read_text())
    given["variants"]["causal"]["tokenizer"] = "trained"
    written.write_text(yaml.safe_dump(given))
    read = load_config(AblationConfig, "", [f"config={written}"])
    assert read.variants["causal"].tokenizer == str(tmp_path / "trained")


def test_stage_2_keeps_the_encoder_of_its_codes(written):
    """Also if overrides changed the encoder: another one's codes would mean something else."""
    overrides = "variants.causal.stage1=[model.vq_model.encoder.num_heads=4,model.vq_model.codebook_size=16]"
    run = make_plan(written, overrides)[0][2]
    for name in ("stage 2", "drawn"):
        vq_model = find_config(run, name).model.vq_model
        assert vq_model.encoder.num_heads == 4
        assert vq_model.codebook_size == 16
        assert not vq_model.decoder.causal
    assert find_config(run, "drawn").model.vq_model.layout.codebook_size == 16


def test_a_probe_without_overrides_is_switched_off(written):
    _, jobs = make_plan(written, "probes.reversed=[]")
    assert not [job for job in jobs if job.name.endswith("reversed")]


@pytest.mark.parametrize(("option", "file"), [("perceptual_model", "perceptual"), ("lpips_network", "lpips")])
def test_a_small_classifier_as_loss_is_not_the_one_that_scores(written, option, file):
    network = f"losses.{option}=small_classifier"
    phase = f"phases=[{{name: loss, steps: 3, learning_rate: 1.0e-3, {file}_weight: 1}}]"
    loss = f"overrides.stage1={json.dumps([network, phase])}"
    jobs = {job.name: job for job in make_plan(written, "only=[causal]", "seeds=[3]", loss)[1]}
    judge, other, stage1 = (jobs[n] for n in ("classifier", "classifier for the loss", "causal, seed 3: stage 1"))
    seeds = {job.command[job.command.index("--seed") + 1] for job in (judge, other)}
    assert len(seeds) == 2
    assert stage1.needs(other)
    assert stage1.command[-1] == f"losses.{file}_checkpoint={other.outputs[0]}"
    assert "classifier for the loss" not in [job.name for job in make_plan(written)[1]]
    unused = f"overrides.stage1={json.dumps([network, PHASES])}"  # the losses of its phases need no network
    assert "classifier for the loss" not in [job.name for job in make_plan(written, unused)[1]]


def test_classifiers_can_learn_data_of_their_own(written):
    jobs = {job.name: job.command for job in make_plan(written, "classifier_data=elsewhere")[1]}
    for name in ("classifier", "causal, seed 3: stage 1"):
        assert any(word.endswith("elsewhere") for word in jobs[name]) == (name == "classifier")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("overrides.ar=[training.max_train_step=3]", "did you mean 'training.max_train_steps'"),
        ("variants.two.codes_of=three", "variants.two.codes_of: 'three' is not a variant with codes of its own"),
        ("variants.two.stage1=[training.seed=1]", "'causal': what changes stage1 belongs there"),
        ("variants.two.configs={stage1: a.yaml}", "'causal': what changes stage1 belongs there"),
        ("variants.two.configs={generator: a.yaml}", "configs: 'generator' is none of stage1, stage2, ar"),
        ("variants.short.tokenizer=a", "the tokenizer in a is trained already"),
        ("variants.causal.stage2=[training.seed=1]", "but second_stage is false"),
        ("variants.two.title=(c) causal", "titles: .* is taken already"),
        ("jobs=0", "jobs is 0; it must be at least 1"),
        ("samplings.reversed=[sampling.top_k=1]", "'reversed' is taken already"),
        ("probes.ar=[training.seed=1]", "'ar' is taken already"),
        ("overrides.ar=[model.generator.hidden_size=30]", "hidden_size 30 is not a multiple"),
        ("variants.short.stage1=[model.vq_model.image_size=32]", "4x4 patches make 21 codes with prefix tokens"),
        (
            "variants.causal.stage1=[model.vq_model.image_size=32,model.vq_model.num_latent_tokens=21]",
            "image_size differs: .*'\\(b\\) short': 16, '\\(c\\) causal': 32",
        ),
        ("only=[causl]", "there is no variant 'causl'; did you mean 'causal'"),
        ("reference=causl", "reference: there is no variant 'causl'; did you mean 'causal'"),
        ("seeds=[1,1]", "seeds: '1' is taken already"),
        ("seeds=[]", "lists no seeds"),
    ],
)
def test_mistakes_are_found_before_anything_runs(written, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        make_plan(written, override)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_second_start_in_one_folder_touches_nothing(written, tmp_path):
    with exclusive_lock(tmp_path / "out"):
        result = launch.run("-m", "experiments.ablation.run", f"config={written}", check=False)
    assert result.returncode == 2
    assert "another run is at work in" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_the_table_gives_mean_and_standard_deviation_over_seeds():
    groups = {"a": [{"x": 0.1}, {"x": 0.2}, {"x": 0.6}], "b": [{"x": 1.0}]}
    lines = table(groups, [Measure("x, %", "x", 1, "lower", 100)]).splitlines()
    assert lines[0] == "|  | a | b |"
    assert lines[2] == f"| x, % | 30.0 ± {100 * statistics.stdev([0.1, 0.2, 0.6]):.1f} | 100.0 |"


def test_differences_are_paired_by_seed():
    """Seeds differ by 10 and variants by 1: unpaired, nothing could be seen. 12.706 is the quantile of one degree."""
    groups = {
        "a": [{"seed": 0, "x": 10.0}, {"seed": 1, "x": 20.0}, {"seed": 2, "x": 99.0}],
        "b": [{"seed": 1, "x": 21.1}, {"seed": 0, "x": 10.9}, {"seed": 3, "x": 0.0}],
        "c": [{"seed": 0, "x": 5.0}],
    }
    lines = differences(groups, [Measure("x", "x", 2), Measure("y", "y", 2)], "a").splitlines()
    assert lines[0] == "| minus a | b | c |"
    half = 12.706 * statistics.stdev([0.9, 1.1]) / 2**0.5
    assert lines[2] == f"| x | +1.00 [{1 - half:+.2f}, {1 + half:+.2f}] | – |"
    assert lines[3] == "| y | – | – |"


def start_forked(command: tuple[str, ...], environment: dict[str, str], log: BinaryIO) -> Script:
    """`job_runner.start_process`, without 3 s of imports for each job."""
    return Script(list(command), environment, Path(log.name), Path(log.name))


@pytest.mark.slow
def test_a_whole_ablation_and_a_second_start_that_finds_it_done(written, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(job_runner, "start_process", start_forked)
    earlier = {"variant": "causal", "title": "(c) causal", "seed": 9, "psnr": 1.0}
    replaced = {"variant": "causal", "title": "(c) causal", "seed": 3, "psnr": 2.0}
    out = tmp_path / "out"
    out.mkdir()
    (out / "runs.jsonl").write_text(f"{json.dumps(earlier)}\n{json.dumps(replaced)}\n")
    command = ("experiments/ablation/run.py", f"config={written}", "seeds=[3]", "jobs=2", "only=[causal,two]")
    launch.run_here(monkeypatch, *command)
    first = capfd.readouterr().out
    rows = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    assert [(row["variant"], row["seed"]) for row in rows] == [("causal", 9), ("causal", 3), ("two", 3)]
    _, causal, two = rows
    assert causal["nats_per_code"] == two["nats_per_code"]
    assert causal["psnr"] != two["psnr"]
    assert causal["nats_per_image"] == pytest.approx(7 * causal["nats_per_code"])
    assert causal["reversed_gap"] != 0
    assert 0 <= causal["drawn_agreement"] <= 1
    assert first.count("  causal, seed 3: codes per image 7, reconstruction PSNR") == 1
    text = (out / "table.md").read_text().strip()
    assert text in first
    assert f"| AR top-1 accuracy, % | {100 * causal['ar_accuracy']:.1f} | {100 * two['ar_accuracy']:.1f} |" in text
    assert causal["influence_earlier"] == 0  # its decoder is causal, that of stage 2 is not
    assert 0 <= two["influence_earlier"] < 1
    for name in ("measures.png", "reconstructions.png", "drawn.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 100, name
    launch.run_here(monkeypatch, *command)
    second = capfd.readouterr().out
    count = sum(line.endswith("done before") for line in second.splitlines())
    assert f"/{count}] " in second
    assert count > 10
    assert text in second
