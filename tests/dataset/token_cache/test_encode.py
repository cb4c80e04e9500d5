"""Encoding as a user runs it: kills, bad files, both layouts."""

import json
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState

from dataset.images import list_images
from dataset.token_cache.encode import EncodeSettings, pretokenize, split_into_batches
from dataset.token_cache.reader import open_token_cache
from tests.dataset.token_cache.conftest import pretokenization, tokenizer_state
from tests.support import toy
from tests.support.files import folder_contents
from tests.support.launch import kill, run, start
from utils.sharded_output import ShardedOutput
from utils.weights import export_weights


def finished_shards(folder: Path) -> dict[str, int]:
    """File name -> time of writing."""
    return {p.name: p.stat().st_mtime_ns for p in (folder / "progress").glob("0*.json")}


def test_batches_never_span_shards(tmp_path):
    output = ShardedOutput(tmp_path / "record.json", tmp_path, {}, 10, 4)
    batches = [(shard, list(files)) for shard, files in split_into_batches(output, [2, 0], 3)]
    assert batches == [(2, [8, 9]), (0, [0, 1, 2]), (0, [3])]


@pytest.mark.slow
def test_kills_at_random_moments_leave_the_same_cache(project):
    """Two processes, three, one: each is killed with all its ranks some time after its first shard."""
    moments, cache, counts = random.Random(0), project / "killed", []
    for processes in (2, 3, 1):
        before = finished_shards(cache)
        process = start(*pretokenization(project, "killed"), processes=processes)
        while process.poll() is None and len(finished_shards(cache)) <= len(before):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.01))
        kill(process)
        if (cache / "metadata.json").is_file():
            break
        after = finished_shards(cache)
        counts.append(len(after))
        assert len(after) > len(before)
        assert {name: after[name] for name in before} == before
    assert counts
    assert counts[0] < 15, counts
    run(*pretokenization(project, "killed"), processes=2)
    assert folder_contents(cache) == folder_contents(project / "whole")


@pytest.mark.slow
def test_some_of_the_images_are_spaced_over_the_classes(project):
    run(*pretokenization(project, "some", "--max_images", 10))
    whole, some = (open_token_cache(project / name) for name in ("whole", "some"))
    assert len(some) == 10
    assert set(some.labels) == set(range(toy.NUM_CLASSES))
    places = [whole.paths().index(path) for path in some.paths()]
    assert places == sorted(places)
    assert list(whole.labels[places]) == list(some.labels)
    assert "0.000% of the codes differ" in run("pretokenization.py", "--check", project / "some").stdout


@pytest.mark.slow
def test_the_tokenizer_is_compiled_if_asked(project, monkeypatch):
    """Traced by dynamo and run without code generation, which takes a minute."""
    whole = open_token_cache(project / "whole")
    tokenizer, metadata = toy.tokenizer(init_std=1.0).requires_grad_(False), replace(whole.metadata, skipped=())
    settings, images = EncodeSettings(batch_size=4, compile=True), list_images(project / "images", "train")
    counts = torch._dynamo.utils.counters["stats"]
    before = counts["unique_graphs"]
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend="eager"))
    pretokenize(tokenizer, images, project / "compiled", metadata, settings, PartialState(cpu=True))
    assert counts["unique_graphs"] > before
    assert folder_contents(project / "compiled" / "codes") == folder_contents(project / "whole" / "codes")


@pytest.mark.slow
def test_a_finished_cache_is_recognised(project):
    before = folder_contents(project / "whole")
    (project / "whole" / "progress").mkdir()  # a kill between the last two actions leaves it
    assert "whole is complete" in run(*pretokenization(project, "whole")).stdout
    assert folder_contents(project / "whole") == before
    assert not (project / "whole" / "progress").exists()


@pytest.mark.slow
def test_every_file_once_and_in_order(project):
    images, cache = list_images(project / "images", "train"), open_token_cache(project / "whole")
    assert cache.paths() == list(images.paths)
    assert cache.labels.tolist() == images.labels.tolist()
    assert len(cache.shards) == 15
    assert len(cache) == 88


@pytest.mark.slow
def test_other_weights_and_files_are_refused(project):
    export_weights(project / "other", {k: v.half().float() for k, v in tokenizer_state().items()})
    flags = ("--tokenizer_checkpoint", project / "other" / "model.safetensors")
    assert "tokenizer_sha256 is" in run(*pretokenization(project, "whole", *flags), check=False).stderr
    extra = project / "images" / "train" / "class_0" / "new.png"
    shutil.copy(extra.with_name("000.png"), extra)
    assert "num_files is 88 there, 89 now" in run(*pretokenization(project, "whole"), check=False).stderr
    extra.rename(extra.with_name("renamed.png"))
    extra.with_name("000.png").unlink()
    result = run(*pretokenization(project, "whole"), check=False)
    extra.with_name("renamed.png").rename(extra.with_name("000.png"))
    assert result.returncode == 2
    assert "files_sha256 is" in result.stderr


@pytest.mark.slow
def test_bad_files_end_the_run_or_are_left_out(project):
    shutil.copytree(project / "images", project / "broken")
    for name in ("class_0/003.JPEG", "class_3/020.png"):
        path = project / "broken" / "train" / name
        path.write_bytes(path.read_bytes()[:150])
    result = run(*pretokenization(project, "partial", images="broken"), processes=2, check=False)
    assert result.returncode != 0
    assert not (project / "partial" / "metadata.json").exists()
    # Both ranks name both files, though each met one.
    assert result.stderr.count("error: 2 files cannot be decoded") == 2
    assert result.stderr.count("class_0/003.JPEG (") == 2
    assert result.stderr.count("class_3/020.png (") == 2
    assert len(finished_shards(project / "partial")) == 13
    run(*pretokenization(project, "partial", "--skip_bad", images="broken"))
    cache, whole = open_token_cache(project / "partial"), open_token_cache(project / "whole")
    assert cache.metadata.skipped == ("class_0/003.JPEG", "class_3/020.png")
    assert len(cache) == 86
    assert cache.paths() == [p for p in whole.paths() if p not in cache.metadata.skipped]
    for i in (0, 3, 50, 85):
        j = whole.paths().index(cache.paths()[i])
        assert (cache.views(i) == whole.views(j)).all()
        assert cache.labels[i] == whole.labels[j]


@pytest.mark.slow
def test_a_shard_without_any_decodable_file_ends_the_run(project):
    shutil.copytree(project / "images", project / "lost")
    for path in (project / "lost").rglob("*.*"):
        path.write_bytes(b"no image")
    result = run(*pretokenization(project, "nothing", "--skip_bad", images="lost"), check=False)
    assert result.returncode == 2
    assert "none of 6 files from" in result.stderr
    assert "is the disk there?" in result.stderr


@pytest.mark.slow
def test_published_layout_can_be_written(project):
    run(*pretokenization(project, "npz", "--format", "npz"), processes=2)
    written, whole = open_token_cache(project / "npz"), open_token_cache(project / "whole")
    assert (project / "npz" / "class_1" / "000.png.npz").is_file()
    assert len(written) == 88
    assert all((written.views(i) == whole.views(i)).all() for i in range(88))
    with np.load(project / "npz" / "class_1" / "000.png.npz", allow_pickle=False) as arrays:
        assert arrays["codes"].shape == (10, toy.NUM_CODES)


@pytest.mark.slow
def test_a_failed_write_is_resumed(project):
    """A file stands where the folder of codes should be, until the next run."""
    cache = project / "blocked"
    (cache / "progress").mkdir(parents=True)  # the cache is begun
    (cache / "codes").write_text("")
    result = run(*pretokenization(project, "blocked"), check=False)
    assert result.returncode == 2
    assert "could not be written" in result.stderr
    assert "Traceback" not in result.stderr
    (cache / "codes").unlink()
    run(*pretokenization(project, "blocked"))
    assert folder_contents(cache) == folder_contents(project / "whole")


@pytest.mark.slow
def test_metadata_records_the_sources(project):
    metadata = json.loads((project / "whole" / "metadata.json").read_text())
    assert metadata["data_path"] == str(project / "images")
    assert metadata["split"] == "train"
    assert metadata["tokenizer_config"] == str(project / "tokenizer.yaml")
    assert metadata["tokenizer_checkpoint"] == str(project / "weights" / "model.safetensors")
