"""Sample shards: identity, the .npz, PNG files, memory, and full or damaged disks."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from dataset.decode import read_rgb
from sampling.shards import SampleShards, choose_shard_size
from tests.support.launch import small_files
from tests.support.paths import ROOT
from utils.errors import UserError
from utils.npz import NpzImages

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr("sampling.shards.choose_shard_size", lambda num_samples: 4)


def open_shards(folder, seed: int = 1) -> SampleShards:
    return SampleShards(folder / "out", 10, 8, {"seed": seed})


def test_every_run_records_its_circumstances(tmp_path, small_shards, capsys):
    """What rounds otherwise, as another batch size does, is told and is no error."""

    def resumed(batch_size: int) -> SampleShards:
        shards = SampleShards(tmp_path / "out", 10, 8, {"seed": 1}, {"batch_size": batch_size, "device": "cpu"})
        assert not shards.prepare()
        return shards

    resumed(125)
    resumed(125)
    assert "warning" not in capsys.readouterr().err
    resumed(500)
    assert "(batch_size is 500, was 125): rounding differs" in capsys.readouterr().err
    shards = resumed(125)
    assert "warning" not in capsys.readouterr().err
    write_missing(shards)
    shards.assemble(np.zeros(10))
    record = json.loads((tmp_path / "out" / "sampling.json").read_text())
    assert record["made with"] == [{"batch_size": 125, "device": "cpu"}, {"batch_size": 500, "device": "cpu"}]
    assert open_shards(tmp_path).prepare()


def write_missing(shards: SampleShards, pngs: bool = False) -> None:
    for shard in shards.missing():
        shards.write(shard, IMAGES[list(shards.items(shard))], pngs)


def test_shard_sizes():
    assert [choose_shard_size(n) for n in (1, 100, 256, 264, 4000, 50_000)] == [32, 32, 32, 33, 500, 500]


def test_interrupted_shards_end_as_one_npz(tmp_path, small_shards):
    shards = open_shards(tmp_path)
    assert not shards.prepare()
    assert shards.missing() == [0, 1, 2]
    shards.write(1, IMAGES[4:8])
    again = open_shards(tmp_path)
    assert not again.prepare()
    assert again.missing() == [0, 2]
    with pytest.raises(UserError, match="seed is 1 there, 2 now"):
        open_shards(tmp_path, seed=2).prepare()
    write_missing(again)
    path = again.assemble(np.arange(10) % 3)
    with np.load(path, allow_pickle=False) as arrays:
        assert (arrays["arr_0"] == IMAGES).all()
        assert arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].tolist() == [0, 1, 2] * 3 + [0]
        assert arrays["arr_1"].dtype == np.int64
    assert json.loads((tmp_path / "out" / "sampling.json").read_text()) == {
        "seed": 1, "num_samples": 10, "shard_size": 4,
    }  # fmt: skip
    assert not shards.progress.exists()
    assert open_shards(tmp_path).prepare()
    streamed = list(NpzImages(path).batches(3))
    assert [len(batch) for batch in streamed] == [3, 3, 3, 1]
    assert (np.concatenate(streamed) == IMAGES).all()


def test_a_removed_npz_is_drawn_again(tmp_path, small_shards):
    shards = open_shards(tmp_path)
    shards.prepare()
    write_missing(shards)
    shards.assemble(np.zeros(10)).unlink()
    assert not open_shards(tmp_path).prepare()
    assert shards.missing() == [0, 1, 2]
    with pytest.raises(UserError, match="seed is 1 there, 2 now"):
        open_shards(tmp_path, seed=2).prepare()


def test_an_older_npz_is_neither_taken_for_the_result_nor_replaced(tmp_path, small_shards):
    """OUTPUT_DIR was removed but OUTPUT_DIR.npz was not."""
    older = open_shards(tmp_path, seed=2)
    older.prepare()
    write_missing(older)
    older.assemble(np.zeros(10))
    shutil.rmtree(older.output_dir)
    before = older.npz.read_bytes()
    with pytest.raises(UserError, match=r"out.npz is there and was not made by this program"):
        open_shards(tmp_path).prepare()
    assert older.npz.read_bytes() == before


def test_missing_png_files_are_completed(tmp_path, small_shards):
    shards = open_shards(tmp_path)
    shards.prepare()
    shards.write(0, IMAGES[:4], pngs=True)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.png")) == [f"00000{i}.png" for i in range(4)]
    write_missing(shards)
    shards.assemble(np.zeros(10))
    shards.png(3).unlink()
    shards.complete_pngs()
    for i in range(10):
        assert (np.array(read_rgb(shards.png(i))) == IMAGES[i]).all()


def test_a_full_disk_is_noticed_before_the_start(tmp_path):
    with pytest.raises(UserError, match=r"GB needed, .* GB free"):
        SampleShards(tmp_path / "out", 1000, 1_000_000, {}).prepare()


def test_a_disk_that_fills_up_leaves_no_partial_shard(tmp_path, small_shards):
    shards = open_shards(tmp_path)
    shards.prepare()
    with small_files(500), pytest.raises(UserError, match=r"00000.npy could not be written .*free space"):
        shards.write(0, IMAGES[:4])
    assert [p.name for p in shards.progress.iterdir()] == ["plan.json"]
    write_missing(shards)
    with small_files(1500), pytest.raises(UserError, match=r"out.npz could not be written"):
        shards.assemble(np.zeros(10))
    assert shards.missing() == []
    assert not shards.npz.exists()


@pytest.mark.parametrize("damage", ["cut", "shape"])
def test_a_damaged_shard_is_named(tmp_path, damage, small_shards):
    shards = open_shards(tmp_path)
    shards.prepare()
    write_missing(shards)
    path = shards.shard_file(1)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        np.save(path, IMAGES[4:7])
    with pytest.raises(UserError, match=r"00001.npy is damaged .*: remove it"):
        shards.assemble(np.zeros(10))


ASSEMBLE = """
import sys
import numpy as np
from tests.support.launch import peak_memory
from sampling.shards import SampleShards
shards = SampleShards(sys.argv[1], 6000, 128, {})
shards.prepare()
for shard in shards.missing():
    shards.write(shard, np.full((len(shards.items(shard)), 128, 128, 3), shard, np.uint8))
before = peak_memory()
shards.assemble(np.zeros(6000))
print(peak_memory() - before)
"""


@pytest.mark.slow
def test_memory_stays_bounded_while_the_npz_is_written(tmp_path):
    """295 MB of images in shards of 25 MB."""
    result = subprocess.run(
        [sys.executable, "-c", ASSEMBLE, tmp_path / "out"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 80 << 20
    assert (tmp_path / "out.npz").stat().st_size > 6000 * 3 * 128**2
