"""The scripts as a user runs them: subprocesses, overrides, one process and two under torchrun."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dataset.crops import center_crop, cut_views
from dataset.decode import read_rgb
from dataset.images import list_images, to_float, to_uint8
from dataset.token_cache.metadata import read_metadata
from dataset.token_cache.reader import open_token_cache
from modeling.build import load_tokenizer
from modeling.configs import read_tokenizer_config
from tests.support import commands, toy
from tests.support.launch import run
from training.logging import read_log
from utils.weights import read_state_dict

pytestmark = pytest.mark.slow


class Pipeline:
    """All scripts at toy size in one folder, with the given number of processes."""

    def __init__(self, folder: Path, images: Path, processes: int):
        self.folder = folder
        self.images = images
        self.processes = processes
        self.launch = {"processes": processes, "fresh": processes > 1}
        self.ar_config = toy.write_ar_config(folder / "ar.yaml", per_gpu_batch_size=8 // processes)
        for stage in (1, 2):
            toy.write_tokenizer_config(folder / f"stage{stage}.yaml", stage, per_gpu_batch_size=8 // processes)

    def train_tokenizer(self, stage: int, *overrides: str) -> None:
        options = ("experiment.save_every=2", "experiment.keep_checkpoints=5", *overrides)
        config, output = self.folder / f"stage{stage}.yaml", self.folder / f"stage{stage}"
        run(*commands.train_tokenizer(config, self.images, output, *options), processes=self.processes)

    def pretokenize(self, tokenizer: Path, *flags: str, check: bool = True) -> subprocess.CompletedProcess:
        config, cache = self.folder / "stage2.yaml", self.folder / "cache"
        command = commands.pretokenize(self.images, config, tokenizer, cache, "--batch_size", 5, *flags)
        return run(*command, processes=self.processes, check=check)

    def train_ar(self, tokenizer: Path) -> None:
        cache = self.folder / "cache"
        options = (f"dataset.params.pretokenization_val={cache}", f"experiment.tokenizer_checkpoint={tokenizer}")
        run(*commands.train_ar(self.ar_config, cache, self.folder / "ar", *options), **self.launch)

    def sample(
        self, generator: Path, tokenizer: Path, *overrides: str, check: bool = True
    ) -> subprocess.CompletedProcess:
        output = self.folder / "samples"
        command = commands.sample_imagenet(self.ar_config, generator, tokenizer, output, *overrides)
        return run(*command, **self.launch, check=check)


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Pipeline:
    """The whole pipeline by one process."""
    folder = tmp_path_factory.mktemp("single")
    pipeline = Pipeline(folder, toy.write_images(folder / "images"), processes=1)
    pipeline.train_tokenizer(1)
    pipeline.train_tokenizer(2, f"experiment.init_from={folder / 'stage1' / 'model.safetensors'}")
    tokenizer = folder / "stage2" / "pytorch_model.bin"
    pipeline.pretokenize(tokenizer, "--ten_crop")
    pipeline.train_ar(tokenizer)
    pipeline.sample(folder / "ar" / "pytorch_model.bin", tokenizer, "sampling.save_png=true")
    return pipeline


@pytest.fixture(scope="module")
def double(single, tmp_path_factory) -> Pipeline:
    """The same by two processes with half the batch each; codes and samples from the same weights."""
    folder = tmp_path_factory.mktemp("double")
    pipeline = Pipeline(folder, single.images, processes=2)
    pipeline.train_tokenizer(1)
    tokenizer = single.folder / "stage2" / "pytorch_model.bin"
    pipeline.pretokenize(tokenizer, "--ten_crop")
    pipeline.train_ar(tokenizer)
    pipeline.sample(single.folder / "ar" / "model.safetensors", tokenizer, "sampling.batch_size=3")
    return pipeline


def test_every_script_leaves_its_results(single):
    for name in ("stage1", "stage2", "ar"):
        assert list((single.folder / name / "previews").glob("*.png")), f"{name}: no previews"
        folder = single.folder / name
        for file in ("pytorch_model.bin", "model.safetensors", "config.yaml", "metrics.jsonl", "curves.png"):
            assert (folder / file).is_file(), f"{name}/{file}"
    assert "val_psnr" in read_log(single.folder / "stage2")[-1]
    assert any("val_loss" in row for row in read_log(single.folder / "ar"))


def test_cached_codes_are_the_tokenizers(single):
    images = list_images(single.images, "train")
    cache = open_token_cache(single.folder / "cache")
    config = read_tokenizer_config(single.folder / "stage2.yaml")
    tokenizer = load_tokenizer(config, single.folder / "stage2" / "pytorch_model.bin")
    assert len(cache) == len(images)
    assert cache.labels.tolist() == images.labels.tolist()
    assert (cache.path / "paths.txt").read_text().splitlines() == list(images.paths)
    for i in (0, 17, len(images) - 1):
        crop = to_uint8(center_crop(read_rgb(images.root / images.paths[i]), int(1.1 * toy.IMAGE_SIZE)))
        codes = tokenizer.encode(to_float(cut_views(crop[None], toy.IMAGE_SIZE, True)[0]))
        assert (np.stack([cache.codes(i, v) for v in range(10)]) == codes.numpy()).all()


def test_samples_are_adms_format(single):
    with np.load(single.folder / "samples.npz", allow_pickle=False) as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    assert images.shape == (10, toy.IMAGE_SIZE, toy.IMAGE_SIZE, 3)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert (np.array(read_rgb(single.folder / "samples" / "000007.png")) == images[7]).all()
    assert len(np.unique(images.reshape(10, -1), axis=0)) > 1


def test_evaluator_prints_adms_lines(single):
    classifier, reference = single.folder / "classifier.safetensors", single.folder / "reference.npz"
    size = ("--img_size", toy.IMAGE_SIZE)
    learn = ("-m", "evaluation.train_classifier", "--max_images", 16)
    run(*learn, "--data_path", single.images, *size, "--output", classifier)
    run("-m", "evaluation.make_reference", "--data_path", single.images, *size, "--output", reference)
    evaluator = "guided-diffusion/evaluations/evaluator.py"
    result = run(evaluator, reference, single.folder / "samples.npz", "--classifier", classifier)
    names = [line.split(": ")[0] for line in result.stdout.strip().splitlines()[-5:]]
    assert names == ["Inception Score", "FID", "sFID", "Precision", "Recall"]
    same = run(evaluator, reference, reference, "--classifier", classifier).stdout
    values = dict(line.split(": ") for line in same.strip().splitlines()[-5:])
    assert abs(float(values["FID"])) < 1e-3
    assert float(values["Precision"]) == 1.0


def test_finished_outputs_are_not_made_again(single):
    before = {p: p.stat().st_mtime_ns for p in single.folder.rglob("*") if p.name in ("model.safetensors", "00000.npy")}
    tokenizer = single.folder / "stage2" / "pytorch_model.bin"
    result = single.pretokenize(tokenizer, "--ten_crop")
    assert "is complete" in result.stdout
    assert "is complete" in single.sample(single.folder / "ar" / "pytorch_model.bin", tokenizer).stdout
    single.train_tokenizer(1)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


def test_other_settings_are_refused_not_mixed(single):
    result = single.pretokenize(single.folder / "stage2" / "pytorch_model.bin", check=False)
    assert result.returncode == 2
    assert "was made otherwise: num_views is 10 there, 2 now" in result.stderr
    result = single.sample(
        single.folder / "ar" / "pytorch_model.bin",
        single.folder / "stage2" / "pytorch_model.bin",
        "model.generator.seed=1",
        check=False,
    )
    assert result.returncode == 2
    assert "was made otherwise: seed is 42 there, 1 now" in result.stderr


def test_two_processes_cache_the_same_bytes(single, double):
    for name in ("codes/00000.npy", "labels.npy", "paths.txt", "SHA256SUMS"):
        assert (single.folder / "cache" / name).read_bytes() == (double.folder / "cache" / name).read_bytes()
    one, two = (read_metadata(p.folder / "cache") for p in (single, double))
    assert one.identity() == two.identity()


def test_two_processes_draw_the_same_images(single, double):
    one, two = (np.load(p.folder / "samples.npz", allow_pickle=False)["arr_0"] for p in (single, double))
    assert np.abs(one.astype(int) - two.astype(int)).max() <= 1


def test_two_processes_train_like_one(single, double):
    """The same global batches: the first logged losses agree to float32 rounding."""
    for name, tolerance in (("stage1", 1e-4), ("ar", 0.1)):  # dropout differs between ranks in ar
        one, two = ([r["loss"] for r in read_log(p.folder / name) if "loss" in r] for p in (single, double))
        np.testing.assert_allclose(one[0], two[0], rtol=tolerance)

    def stage1(pipeline: Pipeline, file: str) -> dict[str, torch.Tensor]:
        return read_state_dict(pipeline.folder / "stage1" / file)

    early = "checkpoints/step_00000002/model.safetensors"
    torch.testing.assert_close(stage1(single, early), stage1(double, early), atol=1e-6, rtol=0)
    # Dead codes with the same nearest latent become equal, and from the third step on rounding decides which of
    # them is used. So a code of one run may have another index in the other run.
    one, two = (stage1(p, "pytorch_model.bin") for p in (single, double))
    apart = (one.pop("quantize.embedding.weight")[:, None] - two.pop("quantize.embedding.weight")).abs().amax(-1)
    for nearest in (apart.amin(0), apart.amin(1)):
        assert (nearest < 5e-3).float().mean() > 0.9
    torch.testing.assert_close(one, two, atol=5e-3, rtol=0.05)


def test_rank_errors_reach_the_user(single):
    config = yaml.safe_load(single.ar_config.read_text())
    config["training"]["max_train_step"] = 3
    bad = single.folder / "bad.yaml"
    bad.write_text(yaml.safe_dump(config))
    result = run("train_ar.py", f"config={bad}", "experiment.output_dir=unused", check=False)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1] == (
        f"error: unknown configuration key 'training.max_train_step' in {bad}; did you mean 'training.max_train_steps'?"
    )
    assert "Traceback" not in result.stderr
