import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tests.support.paths import ROOT
from utils.errors import UserError
from utils.npz import NpzImages, read_arrays

STREAM = """
import sys
from utils.npz import NpzImages
from tests.support.launch import peak_memory
images = NpzImages(sys.argv[1])
before = peak_memory()
assert sum(len(batch) for batch in images.batches(64)) == 4000
print(peak_memory() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True])
def test_images_are_streamed(tmp_path, compressed):
    """197 MB of pixels."""
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "x.npz", arr_0=np.zeros((4000, 128, 128, 3), np.uint8))
    command = [sys.executable, "-c", STREAM, tmp_path / "x.npz"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 60 << 20


def test_array_headers_and_pickles(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    for version in ((1, 0), (2, 0)):
        with zipfile.ZipFile(tmp_path / "v.npz", "w") as archive, archive.open("arr_0.npy", "w") as member:
            np.lib.format.write_array(member, pixels, version=version)
        assert (np.concatenate(list(NpzImages(tmp_path / "v.npz").batches(2))) == pixels).all()
    np.savez(tmp_path / "o.npz", arr_0=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="images are uint8"):
        NpzImages(tmp_path / "o.npz")
    np.savez(tmp_path / "f.npz", arr_0=np.asfortranarray(pixels))
    with pytest.raises(UserError, match="C order"):
        NpzImages(tmp_path / "f.npz")
    with pytest.raises(UserError, match="damaged"):
        read_arrays(tmp_path / "o.npz", ("arr_0",))


def test_a_file_that_ends_early(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", arr_0=pixels)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        list(NpzImages(tmp_path / "x.npz").batches(10))


def test_compressed_npz_streams(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "x.npz", arr_0=images)
    assert (np.concatenate(list(NpzImages(tmp_path / "x.npz").batches(2))) == images).all()
