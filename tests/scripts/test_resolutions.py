"""AliTok's third version through every script, at two image sizes: 2 x 2 and 4 x 4 patches of 8 pixels."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from dataset.token_cache.reader import open_token_cache
from modeling.frozen.small_classifier import Classifier, save_classifier
from tests.support import toy
from tests.support.launch import run_here
from training.logging import last_logged

pytestmark = pytest.mark.slow


class Resolution:
    """All results at one image size."""

    def __init__(self, folder: Path, image_size: int, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.image_size, self.grid = folder, image_size, image_size // toy.PATCH_SIZE
        self.images = toy.write_images(folder / "images", per_class=3)
        self.monkeypatch = monkeypatch
        self.num_codes = self.grid**2 + self.grid
        sizes = {"image_size": image_size, "num_latent_tokens": self.num_codes, "prefix_perceptual_weight": 1.0}
        for name, path in (
            ("stage1", toy.write_tokenizer_config(folder / "stage1.yaml", 1, steps=(2, 2))),
            ("stage2", toy.write_tokenizer_config(folder / "stage2.yaml", 2, steps=(2, 2))),
            ("ar", toy.write_ar_config(folder / "ar.yaml", max_train_steps=2)),
        ):
            content = yaml.safe_load(path.read_text())
            content["model"]["vq_model"] |= sizes
            content["experiment"] |= {"output_dir": str(folder / name), "eval_every": 100, "save_every": 100}
            path.write_text(yaml.safe_dump(content))

    def run(self, script: str, *arguments: object) -> None:
        run_here(self.monkeypatch, script, *arguments)

    def train(self, script: str, name: str, *overrides: object) -> None:
        self.run(script, f"config={self.folder / f'{name}.yaml'}", *overrides)


@pytest.fixture(scope="module", params=[16, 32], ids=["16 pixels", "32 pixels"])
def done(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("training.loop.plot_curves", lambda *args: None)  # most of the time, and no part of this
        at = Resolution(tmp_path_factory.mktemp("resolution"), request.param, monkeypatch)
        classifier = at.folder / "classifier.safetensors"
        save_classifier(classifier, Classifier(toy.NUM_CLASSES), at.image_size, 0.5)
        data = f"dataset.params.data_path={at.images}"
        networks = ("losses.perceptual_model=small_classifier", f"losses.perceptual_checkpoint={classifier}")
        stage1, stage2, cache = at.folder / "stage1", at.folder / "stage2", at.folder / "cache"
        script = "train_tokenizer/train_tokenizer.py"
        at.train(script, "stage1", data, *networks, "phases[0].perceptual_weight=0.1")
        at.train(script, "stage2", data, f"experiment.init_from={stage1 / 'model.safetensors'}")
        size, tokenizer = (
            ("--img_size", at.image_size),
            ("--tokenizer_config", stage2, "--tokenizer_checkpoint", stage2),
        )
        encode = ("--num_workers", 0, "--data_path", at.images, *size, *tokenizer)
        at.run("pretokenization.py", *encode, "--ten_crop", "--cached_path", cache)
        at.run("pretokenization.py", "--check", cache, "--check_images", 2)
        caches = (f"dataset.params.pretokenization={cache}", f"dataset.params.pretokenization_val={cache}")
        weights = f"experiment.tokenizer_checkpoint={stage2 / 'model.safetensors'}"
        at.train("train_ar.py", "ar", *caches, weights, "experiment.generate_every=0")
        checkpoint = f"experiment.generator_checkpoint={at.folder / 'ar' / 'model.safetensors'}"
        at.train("sample_imagenet.py", "ar", weights, checkpoint, f"experiment.output_dir={at.folder / 'samples'}")
        reference = at.folder / "reference.npz"
        at.run("evaluation/make_reference.py", "--data_path", at.images, *size, "--output", reference)
        evaluator = "guided-diffusion/evaluations/evaluator.py"
        metrics = ("--json", at.folder / "metrics.json", "--classifier", classifier)
        at.run(evaluator, reference, at.folder / "samples.npz", *metrics)
        evaluate = ("--data_path", at.images, *tokenizer, "--metrics", "psnr", "--num_workers", 0)
        at.run("evaluation/evaluate_tokenizer.py", *evaluate, "--json", at.folder / "tokenizer.json")
        yield at


def test_the_tokenizer_trains_with_the_loss_on_the_prefix_row(done):
    for name in ("prefix", "prefix_perceptual", "perceptual"):
        assert math.isfinite(last_logged(done.folder / "stage1", name))
    assert math.isfinite(last_logged(done.folder / "stage2", "val_psnr"))


def test_ten_views_of_all_codes_are_cached(done):
    cache = open_token_cache(done.folder / "cache")
    assert (len(cache), cache.num_views, cache.num_codes) == (12, 10, done.num_codes)
    assert cache.metadata.image_size == done.image_size
    for picture in ("check.png", "positions.png"):
        assert (cache.path / picture).is_file()


def test_the_generator_trains_on_them_and_draws_images_of_that_size(done):
    assert math.isfinite(last_logged(done.folder / "ar", "val_loss"))
    assert (done.folder / "ar" / "accuracy_by_position.png").is_file()
    with np.load(done.folder / "samples.npz", allow_pickle=False) as arrays:
        assert arrays["arr_0"].shape == (10, done.image_size, done.image_size, 3)


def test_samples_and_reconstructions_are_evaluated(done):
    metrics = yaml.safe_load((done.folder / "metrics.json").read_text())
    assert math.isfinite(metrics["fid"])
    assert math.isfinite(yaml.safe_load((done.folder / "tokenizer.json").read_text())["psnr"])
