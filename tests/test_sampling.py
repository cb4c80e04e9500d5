"""Sample shards and the .npz made of them."""

import subprocess
import sys

import numpy as np
import pytest

from sampling.shards import SampleShards
from tests.support.paths import ROOT
from utils.errors import UserError

ASSEMBLE = """
import sys
import numpy as np
from tests.support.launch import peak_memory
from sampling.shards import SampleShards
shards = SampleShards(sys.argv[1], 6000, 128, {})
shards.begin()
for shard in shards.missing():
    shards.write(shard, np.full((len(shards.images_of(shard)), 128, 128, 3), shard, np.uint8))
before = peak_memory()
shards.assemble(np.zeros(6000))
print(peak_memory() - before)
"""


def test_memory_stays_bounded_while_the_npz_is_written(tmp_path):
    """295 MB of images in shards of 25 MB."""
    result = subprocess.run(
        [sys.executable, "-c", ASSEMBLE, tmp_path / "out"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 80 << 20
    assert (tmp_path / "out.npz").stat().st_size > 6000 * 3 * 128**2


def test_a_full_disk_is_noticed_before_the_start(tmp_path):
    with pytest.raises(UserError, match=r"GB needed, .* GB free"):
        SampleShards(tmp_path / "out", 1000, 1_000_000, {}).begin()


def test_a_damaged_shard_is_named(tmp_path):
    shards = SampleShards(tmp_path / "out", 40, 8, {})
    shards.begin()
    for shard in shards.missing():
        shards.write(shard, np.zeros((len(shards.images_of(shard)), 8, 8, 3), np.uint8))
    shards.path(1).write_bytes(shards.path(1).read_bytes()[:100])
    with pytest.raises(UserError, match=r"00001.npy is damaged: remove it"):
        shards.assemble(np.zeros(40))
