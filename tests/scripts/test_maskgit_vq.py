"""MaskGIT-VQ in the scripts: token caches, evaluation, a generator of its codes, no training."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

from dataset.crops import center_crop, cut_views, source_size
from dataset.decode import read_rgb
from dataset.images import to_float, to_uint8
from dataset.token_cache.reader import open_token_cache
from modeling.build import load_tokenizer
from modeling.configs import read_tokenizer_config
from sampling.pipeline import Pipeline
from tests.support import commands, toy
from tests.support.launch import run
from train_generator.config import ARConfig
from train_generator.trainer import GeneratorTrainer
from utils.config import load_config

pytestmark = pytest.mark.slow

SIZE = toy.MASKGIT_VQ["image_size"]
PUBLISHED = ("scripts/pretokenization.py", "--img_size", 256, "--batch_size", 8, "--ten_crop")


class Work(NamedTuple):
    images: Path
    config: Path
    weights: Path

    @property
    def tokenizer(self) -> tuple[object, ...]:
        return "--tokenizer_config", self.config, "--tokenizer_checkpoint", self.weights


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Work:
    folder = tmp_path_factory.mktemp("maskgit_vq")
    work = Work(toy.write_images(folder / "images", per_class=3), folder / "config.yaml", folder / "maskgit_vq.bin")
    work.config.write_text(yaml.safe_dump({"model": {"vq_model": toy.MASKGIT_VQ}}))
    torch.save(toy.maskgit_vq().state_dict(), work.weights)
    return work


@pytest.fixture(scope="module")
def cache(work) -> Path:
    """By the script in scripts/ on two processes."""
    folder = work.images.parent / "cache"
    arguments = ("--img_size", SIZE, "--batch_size", 2, "--ten_crop", "--data_path", work.images, "--num_workers", 0)
    run("scripts/pretokenization.py", *arguments, *work.tokenizer, "--cached_path", folder, processes=2)
    return folder


def test_cached_codes_are_the_tokenizers(work, cache):
    found = open_token_cache(cache)
    tokenizer = load_tokenizer(read_tokenizer_config(work.config), work.weights)
    assert (len(found), found.num_views, found.num_codes, found.codebook_size) == (12, 10, 64, 32)
    for i in (0, 7, 11):
        image = read_rgb(work.images / "train" / found.paths()[i])
        crop = to_uint8(center_crop(image, source_size(SIZE, ten_crop=True)))
        codes = tokenizer.encode(to_float(cut_views(crop[None], SIZE, ten_crop=True)[0]))
        assert (found.views(i) == codes.numpy()).mean() > 0.99  # rounding depends on the batch


def test_both_scripts_write_the_same_cache(work, cache, tmp_path):
    command = ("pretokenization.py", "--img_size", SIZE, "--batch_size", 2, "--ten_crop", "--num_workers", 0)
    run(*command, "--data_path", work.images, *work.tokenizer, "--cached_path", tmp_path / "cache")
    for name in ("SHA256SUMS", "metadata.json"):
        assert (tmp_path / "cache" / name).read_text() == (cache / name).read_text()
    assert "0.000% of the codes differ" in run("pretokenization.py", "--check", cache).stdout


def test_the_published_command_finds_its_defaults(work, tmp_path):
    """Verbatim, where the weights are missing."""
    result = run(*PUBLISHED, "--data_path", work.images, "--cached_path", tmp_path / "cache", check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: weights not found: maskgit-vqgan-imagenet-f16-256.bin")
    (tmp_path / "codes.jsonl").write_text("")
    result = run(*PUBLISHED, "--data_path", work.images, "--cached_path", tmp_path / "codes.jsonl", check=False)
    assert result.stderr == f"error: --cached_path {tmp_path / 'codes.jsonl'} is a file; name a folder to write\n"


def test_it_is_evaluated(work, tmp_path):
    command = ("-m", "evaluation.evaluate_tokenizer", "--data_path", work.images, "--metrics", "psnr,ssim")
    result = run(*command, *work.tokenizer, "--num_workers", 0, "--grid", tmp_path / "grid.png")
    assert "psnr: " in result.stdout
    assert "images: 12" in result.stdout
    assert (tmp_path / "grid.png").is_file()


def test_training_it_is_refused(work, tmp_path):
    config = yaml.safe_load(toy.write_tokenizer_config(tmp_path / "stage1.yaml", 1).read_text())
    config["model"]["vq_model"] = toy.MASKGIT_VQ
    (tmp_path / "stage1.yaml").write_text(yaml.safe_dump(config))
    result = run(*commands.train_tokenizer(tmp_path / "stage1.yaml", work.images, tmp_path / "out"), check=False)
    assert result.returncode == 2
    message = "model.vq_model: the tokenizer 'maskgit_vq' has no training, only published weights"
    assert result.stderr.strip().splitlines()[-1] == f"error: {message}"


def test_a_generator_of_its_codes_trains_and_samples(work, cache, tmp_path):
    """With previews, and a pipeline of the training's folder."""
    config = yaml.safe_load(toy.write_ar_config(tmp_path / "ar.yaml").read_text())
    config["model"]["vq_model"] = toy.MASKGIT_VQ
    config["model"]["generator"]["image_seq_len"] = 64
    (tmp_path / "ar.yaml").write_text(yaml.safe_dump(config))
    arguments = (f"config={tmp_path / 'ar.yaml'}", f"experiment.output_dir={tmp_path / 'out'}")
    arguments += (f"dataset.params.pretokenization={cache}", f"experiment.tokenizer_checkpoint={work.weights}")
    GeneratorTrainer(load_config(ARConfig, "", arguments)).run()
    assert len(list((tmp_path / "out" / "previews").glob("*.png"))) == 2
    pipeline = Pipeline.from_pretrained(tmp_path / "out")
    images = pipeline.generate([0, 1, 2])
    assert images.shape == (3, 3, SIZE, SIZE)
    assert torch.equal(images, toy.maskgit_vq().decode(pipeline.generate_codes([0, 1, 2])))
