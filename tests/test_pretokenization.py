"""pretokenization.py as a user runs it: kills, bad files, both layouts, the check."""

import json
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.image_folder import list_images
from dataset.token_cache.reader import open_token_cache
from tests.support import toy
from tests.support.launch import kill, run, start
from tests.test_token_cache import contents
from utils.weights import export_weights

SHARD = 6


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Images, a tokenizer, and a whole cache of 15 shards by one process."""
    folder = tmp_path_factory.mktemp("pretokenization")
    toy.write_images(folder / "images", per_class=22, splits=("train",), noise=True)
    toy.write_tokenizer_config(folder / "tokenizer.yaml", 2)
    export_weights(folder / "weights", tokenizer_state())
    run(*command(folder, "whole"))
    cache = open_token_cache(folder / "whole")
    assert len({cache.views(i).tobytes() for i in range(len(cache))}) > 70  # codes tell the images apart
    return folder


def tokenizer_state() -> dict[str, torch.Tensor]:
    """With weights large enough for the codes to depend on the image."""
    return toy.tokenizer(init_std=1.0).state_dict()


def command(folder: Path, name: str, *flags: object, images: str = "images") -> tuple[object, ...]:
    return (
        *("pretokenization.py", "--img_size", toy.IMAGE_SIZE, "--batch_size", 4, "--num_workers", 1, "--ten_crop"),
        *("--data_path", folder / images, "--tokenizer_config", folder / "tokenizer.yaml"),
        *("--tokenizer_checkpoint", folder / "weights" / "model.safetensors", "--shard_size", SHARD),
        *("--cached_path", folder / name, *flags),
    )


def finished_shards(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "progress").glob("0*.json")}


def test_kills_at_random_moments_leave_the_same_cache(project):
    """Two processes, three, one: each is killed with all its ranks some time after its first shard."""
    moments, cache, amid = random.Random(0), project / "killed", []
    for processes in (2, 3, 1):
        before = finished_shards(cache)
        process = start(*command(project, "killed"), processes=processes)
        while process.poll() is None and len(finished_shards(cache)) <= len(before):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.01))
        kill(process)
        if (cache / "metadata.json").is_file():
            break
        after = finished_shards(cache)
        amid.append(len(after))
        assert len(after) > len(before) and all(after[name] == moment for name, moment in before.items())
    assert amid and amid[0] < 15, amid
    run(*command(project, "killed"), processes=2)
    assert contents(cache) == contents(project / "whole")


def test_some_of_the_images_are_spread_over_the_classes(project):
    run(*command(project, "some", "--max_images", 10))
    whole, some = (open_token_cache(project / name) for name in ("whole", "some"))
    assert len(some) == 10 and set(some.labels) == set(range(toy.NUM_CLASSES))
    places = [whole.paths().index(path) for path in some.paths()]
    assert places == sorted(places) and list(whole.labels[places]) == list(some.labels)
    assert "float32 encoding gives 0.000%" in run("pretokenization.py", "--check", project / "some").stdout


def test_a_finished_cache_is_recognised(project):
    before = contents(project / "whole")
    (project / "whole" / "progress").mkdir()  # a kill between the last two actions leaves it
    assert "whole is complete" in run(*command(project, "whole")).stdout
    assert contents(project / "whole") == before and not (project / "whole" / "progress").exists()


def test_every_file_once_and_in_order(project):
    images, cache = list_images(project / "images", "train"), open_token_cache(project / "whole")
    assert cache.paths() == list(images.paths) and cache.labels.tolist() == images.labels.tolist()
    assert len(cache.shards) == 15 and len(cache) == 88


def test_other_weights_crops_and_files_are_refused(project):
    export_weights(project / "other", {k: v.half().float() for k, v in tokenizer_state().items()})
    flags = ("--tokenizer_checkpoint", project / "other" / "model.safetensors")
    assert "tokenizer_sha256 is" in run(*command(project, "whole", *flags), check=False).stderr
    extra = project / "images" / "train" / "class_0" / "new.png"
    shutil.copy(extra.with_name("000.png"), extra)
    assert "num_files is 88 there, 89 now" in run(*command(project, "whole"), check=False).stderr
    extra.rename(extra.with_name("renamed.png"))
    extra.with_name("000.png").unlink()
    result = run(*command(project, "whole"), check=False)
    extra.with_name("renamed.png").rename(extra.with_name("000.png"))
    assert result.returncode == 2 and "files_sha256 is" in result.stderr


def test_bad_files_end_the_run_or_are_left_out(project):
    shutil.copytree(project / "images", project / "broken")
    for name in ("class_0/003.JPEG", "class_3/020.png"):
        path = project / "broken" / "train" / name
        path.write_bytes(path.read_bytes()[:150])
    result = run(*command(project, "partial", images="broken"), processes=2, check=False)
    assert result.returncode != 0 and not (project / "partial" / "metadata.json").exists()
    # Both ranks tell of both files, though each met one.
    assert result.stderr.count("error: 2 files cannot be decoded") == 2
    assert "class_0/003.JPEG" in result.stderr and "class_3/020.png" in result.stderr
    assert len(finished_shards(project / "partial")) == 13
    run(*command(project, "partial", "--skip_bad", images="broken"))
    cache, whole = open_token_cache(project / "partial"), open_token_cache(project / "whole")
    assert cache.metadata.skipped == ("class_0/003.JPEG", "class_3/020.png") and len(cache) == 86
    assert cache.paths() == [p for p in whole.paths() if p not in cache.metadata.skipped]
    for i in (0, 3, 50, 85):
        j = whole.paths().index(cache.paths()[i])
        assert (cache.views(i) == whole.views(j)).all() and cache.labels[i] == whole.labels[j]


def test_published_layout_can_be_written(project):
    run(*command(project, "npz", "--format", "npz"), processes=2)
    written, whole = open_token_cache(project / "npz"), open_token_cache(project / "whole")
    assert (project / "npz" / "class_1" / "000.png.npz").is_file() and len(written) == 88
    assert all((written.views(i) == whole.views(i)).all() for i in range(88))
    with np.load(project / "npz" / "class_1" / "000.png.npz", allow_pickle=False) as arrays:
        assert arrays["codes"].shape == (10, toy.NUM_CODES)


def test_check_of_a_good_cache(project):
    output = run("pretokenization.py", "--check", project / "whole").stdout
    assert "hashes: 17 files are as written" in output  # 15 shards, labels, paths
    assert "float32 encoding gives 0.000% of the codes otherwise" in output
    assert "classes: 4, of 22 to 22 images" in output and "perplexity" in output
    assert (project / "whole" / "check.png").is_file()
    (project / "whole" / "check.png").unlink()


def test_check_measures_what_bf16_changes(project):
    run(*command(project, "bf16", "--precision", "bf16"))
    output = run("pretokenization.py", "--check", project / "bf16", "--check_images", 88).stdout
    share = float(output.split("float32 encoding gives ")[1].split("%")[0])
    one, two = open_token_cache(project / "bf16"), open_token_cache(project / "whole")
    differing = np.mean([(one.views(i) != two.views(i)).mean() for i in range(88)])
    assert share == pytest.approx(100 * differing, abs=1e-3) and 0 < share < 20


def test_check_finds_damage(project):
    def broken(name: str) -> Path:
        shutil.copytree(project / "whole", project / name)
        return project / name

    def message(cache: Path, *flags: object) -> str:
        result = run("pretokenization.py", "--check", cache, *flags, check=False)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        return result.stderr

    cache = broken("bits")
    shard = np.load(cache / "codes" / "00003.npy")
    shard[0, 0, 0] ^= 1
    np.save(cache / "codes" / "00003.npy", shard)
    assert "codes/00003.npy is not the file that was written" in message(cache)
    cache = broken("range")
    shard[1, 2, 3] = toy.CODEBOOK_SIZE
    np.save(cache / "codes" / "00003.npy", shard)
    (cache / "SHA256SUMS").unlink()
    path = open_token_cache(cache).paths()[3 * SHARD + 1]
    assert f"{path} has codes outside [0, 32)" in message(cache)
    state = tokenizer_state()
    state["latent_tokens"] = state["latent_tokens"] + 1
    export_weights(project / "weights2", state)
    other = ("--tokenizer_checkpoint", project / "weights2" / "model.safetensors")
    assert "is not the tokenizer that made" in message(broken("tokenizer"), *other)
    assert "has no metadata.json" in message(make_published(project / "published"))


def make_published(folder: Path) -> Path:
    (folder / "a").mkdir(parents=True)
    np.savez(folder / "a" / "1.JPEG.npz", codes=np.zeros((2, 7), int))
    return folder


def test_a_disk_that_takes_no_more(project):
    """A file stands where the folder of codes should be: the next run, with the way free, goes on."""
    cache = project / "blocked"
    cache.mkdir()
    (cache / "codes").write_text("")
    result = run(*command(project, "blocked"), check=False)
    assert result.returncode == 2 and "could not be written" in result.stderr and "Traceback" not in result.stderr
    (cache / "codes").unlink()
    run(*command(project, "blocked"))
    assert contents(cache) == contents(project / "whole")


def test_metadata_says_where_things_were(project):
    metadata = json.loads((project / "whole" / "metadata.json").read_text())
    assert metadata["data_path"] == str(project / "images") and metadata["split"] == "train"
