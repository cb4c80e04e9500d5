"""`pretokenization.py --check`: what it prints, and the damage it finds."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.images import ImageList
from dataset.token_cache.check import check_against_images, check_labels, count_codes
from dataset.token_cache.reader import open_token_cache
from tests.dataset.token_cache.conftest import SHARD_SIZE, pretokenization, tokenizer_state
from tests.support import toy
from tests.support.commands import pretokenize
from tests.support.launch import run
from utils import pretrained
from utils.errors import UserError
from utils.weights import export_weights


def test_codes_are_counted(tmp_path):
    cache = open_token_cache(toy.write_token_cache(tmp_path / "cache", 24))
    counts = count_codes(cache, toy.CODEBOOK_SIZE).counts
    codes = np.concatenate([cache.views(i) for i in range(24)])
    for position in range(toy.NUM_CODES):
        expected = np.bincount(codes[:, position], minlength=toy.CODEBOOK_SIZE)
        assert counts[position].tolist() == expected.tolist()
    first = next(i for i in range(24) if cache.views(i).max() >= 30)
    with pytest.raises(UserError, match=rf"{cache.paths()[first]} has codes outside \[0, 30\)"):
        count_codes(cache, 30)


def test_labels_must_fit(tmp_path):
    cache = open_token_cache(toy.write_token_cache(tmp_path / "cache", 24))
    assert check_labels(cache).tolist() == cache.labels.tolist()
    (tmp_path / "cache" / "paths.txt").write_text("a/0.png\n")
    with pytest.raises(UserError, match="labels or paths do not fit"):
        check_labels(cache)
    cache.num_classes = 3
    with pytest.raises(UserError, match="labels or paths do not fit"):
        check_labels(cache)


def test_codes_of_other_images_are_noticed(tmp_path):
    """The cache holds random codes, not those of the images."""
    cache = open_token_cache(toy.write_token_cache(tmp_path / "cache", 24))
    rng = np.random.default_rng(0)
    for path in cache.paths():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 18, 3), dtype=np.uint8)).save(tmp_path / path)
    images = ImageList(tmp_path, cache.classes, tuple(cache.paths()), cache.labels)
    with pytest.raises(UserError, match=r"does not hold the codes of the images in .*: 9\d\.\d% differ"):
        check_against_images(cache, images, toy.tokenizer(init_std=1.0), 24)
    (tmp_path / cache.paths()[0]).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"the source image .*a/0.png cannot be read"):
        check_against_images(cache, images, toy.tokenizer(), 24)


def test_a_cache_of_a_tokenizer_on_the_hub_is_checked_with_it(tmp_path, images, program, monkeypatch):
    export_weights(tmp_path / "hub", toy.tokenizer(init_std=1.0).state_dict())
    toy.write_tokenizer_config(tmp_path / "hub" / "config.yaml", 2)
    monkeypatch.setattr(pretrained, "snapshot_download", lambda source, **options: tmp_path / "hub")
    cache, hub_id = tmp_path / "cache", Path("name/repository")
    assert program(*pretokenize(images, hub_id, hub_id, cache))[0] == 0
    metadata = open_token_cache(cache).metadata
    assert (metadata.tokenizer_config, metadata.tokenizer_checkpoint) == ("name/repository", "name/repository")
    assert "0.000% of the codes differ" in program("pretokenization.py", "--check", cache)[1]


@pytest.mark.slow
def test_check_of_a_good_cache(project):
    output = run("pretokenization.py", "--check", project / "whole").stdout
    assert "hashes: 17 files are as written" in output  # 15 shards, labels, paths
    assert "0.000% of the codes differ from a float32 encoding" in output
    assert "classes: 4, 22 to 22 images each" in output
    assert "perplexity" in output
    assert "positions: entropy" in output
    for picture in ("check.png", "positions.png"):
        assert (project / "whole" / picture).is_file()


@pytest.mark.slow
def test_check_measures_what_bf16_changes(project):
    run(*pretokenization(project, "bf16", "--precision", "bf16"))
    output = run("pretokenization.py", "--check", project / "bf16", "--check_images", 88).stdout
    share = float(output.split("% of the codes differ")[0].split()[-1])
    one, two = open_token_cache(project / "bf16"), open_token_cache(project / "whole")
    differing = np.mean([(one.views(i) != two.views(i)).mean() for i in range(88)])
    assert share == pytest.approx(100 * differing, abs=1e-3)
    assert 0 < share < 20


@pytest.mark.slow
def test_without_the_images_the_codes_are_only_counted(project, tmp_path):
    output = run("pretokenization.py", "--check", project / "whole", "--data_path", tmp_path).stdout
    assert "perplexity" in output
    assert f"image folder not found: {tmp_path / 'train'}" in output


@pytest.mark.slow
def test_check_finds_damage(project):
    def copy(name: str) -> Path:
        shutil.copytree(project / "whole", project / name)
        return project / name

    def message(cache: Path, *flags: object) -> str:
        result = run("pretokenization.py", "--check", cache, *flags, check=False)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        return result.stderr

    cache = copy("bits")
    shard = np.load(cache / "codes" / "00003.npy")
    shard[0, 0, 0] ^= 1
    np.save(cache / "codes" / "00003.npy", shard)
    assert "codes/00003.npy is not the file that was written" in message(cache)
    cache = copy("range")
    shard[1, 2, 3] = toy.CODEBOOK_SIZE
    np.save(cache / "codes" / "00003.npy", shard)
    (cache / "SHA256SUMS").unlink()
    path = open_token_cache(cache).paths()[3 * SHARD_SIZE + 1]
    assert f"{path} has codes outside [0, 32)" in message(cache)
    state = tokenizer_state()
    state["latent_tokens"] = state["latent_tokens"] + 1
    export_weights(project / "weights2", state)
    other = ("--tokenizer_checkpoint", project / "weights2" / "model.safetensors")
    assert "is not the tokenizer that made" in message(copy("tokenizer"), *other)
    (project / "published" / "a").mkdir(parents=True)
    np.savez(project / "published" / "a" / "1.JPEG.npz", codes=np.zeros((2, 7), int))
    assert "has no metadata.json" in message(project / "published")
