"""The index of archives: reused, made again, written elsewhere; damaged archives."""

import bz2
import os
import pickle
import threading
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dataset.archives import index
from dataset.archives.build import Builder
from dataset.archives.locate import find_archives
from dataset.decode import BadImage
from dataset.image_dataset import TrainingImages, read_or_next
from dataset.images import list_images
from dataset.token_cache.encode import SourceCrops
from tests.support import archives, data_cases
from tests.support.damage import mutate
from utils.errors import UserError
from utils.file_lock import one_process


@pytest.fixture
def builds(monkeypatch) -> list[Path]:
    """The archives that were read for an index, in order."""
    found, build = [], Builder.build

    def record(self):
        found.extend(self.archives.files)
        return build(self)

    monkeypatch.setattr(Builder, "build", record)
    return found


@pytest.fixture
def archive(tmp_path) -> Path:
    return archives.write_tar(tmp_path / "data" / "train.tar", archives.in_folders("train"))


def index_file(archive: Path) -> Path:
    (found,) = (archive.parent / ".image_index").glob("*.npz")
    return found


def test_an_index_is_made_once(archive, builds):
    first, second = list_images(archive, "train"), list_images(archive, "train")
    assert builds == [archive]
    assert first.paths == second.paths
    assert first.classes == second.classes
    for name in ("archive", "start", "size", "deflated"):
        assert (getattr(first.places, name) == getattr(second.places, name)).all()


def test_an_index_moves_with_its_folder(archive, builds, tmp_path):
    expected = list_images(archive, "train").places.read(0)
    archive.parent.rename(tmp_path / "moved")
    assert list_images(tmp_path / "moved", "train").places.read(0) == expected
    assert len(builds) == 1


def test_changed_archives_are_indexed_again(archive, builds):
    list_images(archive, "train")
    archives.write_tar(archive, archives.in_folders("train")[:5])
    assert len(list_images(archive, "train")) == 5
    later = archive.stat().st_mtime_ns + 10**9
    os.utime(archive, ns=(later, later))
    list_images(archive, "train")
    assert len(builds) == 3


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no index", None])
def test_a_damaged_index_is_made_again(archive, builds, content):
    list_images(archive, "train")
    path = index_file(archive)
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    assert len(list_images(archive, "train")) == 18
    assert len(builds) == 2


def test_where_the_folder_cannot_be_written(archive, builds, tmp_path, monkeypatch):
    (archive.parent / ".image_index").touch()  # in the way of the folder
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert len(list_images(archive, "train")) == 18
    assert len(builds) == 1
    assert len(list((tmp_path / "cache" / "image_index").rglob("*.npz"))) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(archive))
    with pytest.raises(UserError, match=r"the index of .*train.tar can be written neither to .* nor to .*train.tar"):
        list_images(archive, "train")


def test_processes_wait_for_the_one_that_indexes(archive, builds):
    target = archive.parent / ".image_index"
    target.mkdir()
    with one_process(target / index.index_name(find_archives(archive, "train"))):
        waiting = threading.Thread(target=list_images, args=(archive, "train"))
        waiting.start()
        time.sleep(0.1)
        assert waiting.is_alive()
        assert builds == []
    waiting.join(10)
    assert builds == [archive]


def test_copies_of_another_state_are_not_read(tmp_path, builds):
    """The copies are named by what was indexed, and an index without its copies is none."""
    pytest.importorskip("pyarrow")
    data = archives.tables(tmp_path)
    copies = list_images(data, "train").places.files[-1]
    assert copies.stat().st_size == sum(len(content) for *_, content in archives.pictures("train"))
    copies.unlink()
    list_images(data, "train")
    assert copies.is_file()
    table = data / "data" / "train-00000-of-00002.parquet"
    os.utime(table, ns=(0, 0))
    assert list_images(data, "train").places.files[-1] != copies
    assert not copies.exists()


def test_processes_without_locks_write_copies_of_their_own(tmp_path, monkeypatch):
    """One that makes the index later writes the same bytes; one that fails leaves nothing."""
    pytest.importorskip("pyarrow")
    first = list_images(archives.tables(tmp_path), "train")
    copies = first.places.files[-1]
    made = copies.with_name(f"{copies.name.partition('.')[0]}.npz")
    with copies.open("rb") as opened:
        made.unlink()
        assert (list_images(tmp_path, "train").places.start == first.places.start).all()
        assert opened.read() == copies.read_bytes()
    made.unlink()
    monkeypatch.setattr(Builder, "_assemble", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list_images(tmp_path, "train")
    assert list(copies.parent.glob("*.copies*")) == [copies]


def test_one_archive_has_an_index_for_each_way_to_read_it(tmp_path):
    """train/cat.tar is whole as a part of the folder, and by itself belongs to no split."""
    path = archives.write_tar(tmp_path / "train" / "cat.tar", [])
    assert len({index.index_name(find_archives(data, "train")) for data in (tmp_path, path)}) == 2


def test_workers_read_archives_as_they_read_folders(tmp_path, archive):
    """Forked or not, from the lists that the main process pickles: the same batches."""
    folder = data_cases.image_folder(tmp_path / "folder")
    uniforms = np.random.default_rng(0).random((2, 9, 3))
    orders = np.random.default_rng(1).permutation(18).reshape(2, 9)
    batches = [(order, u, np.arange(9)) for order, u in zip(orders, uniforms, strict=True)]
    found = {}
    for name, data in (("folder", folder), ("archive", archive)):
        dataset = TrainingImages(list_images(data, "train"), 16, flip=True)
        assert pickle.loads(pickle.dumps(dataset)).images.read(3).size == (32, 32)
        for workers in (0, 2):
            loader = DataLoader(dataset, sampler=batches, batch_size=None, num_workers=workers)
            found[name, workers] = torch.stack([batch.images for batch in loader])
    expected = found.pop(("folder", 0))
    assert all(torch.equal(images, expected) for images in found.values())


def test_a_bad_image_in_an_archive_is_a_bad_file(tmp_path):
    members = archives.in_folders("train")
    members[2] = (members[2][0], members[2][1][:60])
    images = list_images(archives.write_zip(tmp_path / "train.zip", members), "train")
    failures = []
    assert read_or_next(images, 2, failures)[1] == 3
    assert [index for index, _ in failures] == [2]
    assert images.path(2) == tmp_path / "train.zip" / "a-first" / "2.png"
    batch = SourceCrops(images, 16)[0, range(1, 4)]
    assert batch.indices == [1, 3]


def test_archives_that_change_under_a_run_give_bad_files(archive):
    images = list_images(archive, "train")
    with archive.open("r+b") as file:
        file.truncate(int(images.places.start[-1]) + 10)
    with pytest.raises(BadImage, match=r"train.tar ends before the image does"):
        images.read(17)
    archive.unlink()
    with pytest.raises(BadImage, match="No such file"):
        images.read(0)


def test_damaged_deflated_bytes_are_a_bad_file(tmp_path):
    path = archives.write_zip(tmp_path / "train.zip", archives.in_folders("train"))
    images = list_images(path, "train")
    with path.open("r+b") as file:
        file.seek(int(images.places.start[0]))
        file.write(b"\xff\xff\xff")
    with pytest.raises(BadImage, match=r"train.zip: Error -3"):
        images.read(0)


def test_a_member_that_inflates_to_gigabytes_is_a_bad_file(tmp_path, monkeypatch):
    path = archives.write_zip(tmp_path / "train.zip", [("a/0.png", bytes(100_000))])
    monkeypatch.setattr("dataset.archives.places.MAX_BYTES", 50_000)
    with pytest.raises(BadImage, match="larger than 50000 bytes"):
        list_images(path, "train").read(0)


def damaged(kind: str, folder: Path) -> Path:
    """An archive that cannot be indexed."""
    members, suffix = archives.in_folders("train"), "tar" if "tar" in kind else "zip"
    path = (archives.write_tar if suffix == "tar" else archives.write_zip)(folder / f"train.{suffix}", members)
    data = bytearray(path.read_bytes())
    if kind.startswith("cut"):
        data = data[: len(data) // 2]
    if kind == "compressed tar":
        data = bz2.compress(data)
    if kind == "encrypted zip":
        data[data.index(b"PK\1\2") + 8] |= 1
    if kind == "zip with wrong places":
        data[:4] = b"XXXX"
    if kind == "rarely compressed zip":
        archives.write_zip(path, members, zipfile.ZIP_BZIP2)
        return path
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut tar", "train.tar cannot be read as a tar archive"),
        ("compressed tar", "train.tar cannot be read as a tar archive .*undo the compression"),
        ("cut zip", "train.zip cannot be read as a zip archive"),
        ("encrypted zip", "a-first/0.png is encrypted"),
        ("zip with wrong places", "a-first/0.png is not where the table of contents says"),
        ("rarely compressed zip", "a-first/0.png is neither stored nor deflated"),
    ],
)
def test_damaged_archives_are_refused(tmp_path, kind, message):
    path = damaged(kind, tmp_path)
    with pytest.raises(UserError, match=message):
        list_images(path, "train")


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_archive_is_a_list_or_an_error(tmp_path, kind):
    """Whatever is damaged: images, bad files, or one line for the user; nothing else."""
    write = archives.write_tar if kind == "tar" else archives.write_zip
    path = tmp_path / f"train.{kind}"
    data, rng = write(path, archives.in_folders("train")[:4]).read_bytes(), np.random.default_rng(0)
    outcomes = {"refused": 0, "read": 0}
    for _ in range(80):
        head, tail = (mutate(data, rng), b"") if rng.random() < 0.5 else (data[:-400], mutate(data[-400:], rng))
        path.write_bytes(head + tail)
        try:
            images = list_images(path, "train")
        except UserError:
            outcomes["refused"] += 1
            continue
        for i in range(len(images)):
            with suppress(BadImage):
                assert images.read(i).mode == "RGB"
        outcomes["read"] += 1
    assert min(outcomes.values()) > 10


def test_damaged_tables_are_refused(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "train.parquet"

    def write(**columns) -> None:
        pq.write_table(pa.table(columns), path)

    image = archives.pictures("train")[0][2]
    path.write_bytes(b"no table at all")
    with pytest.raises(UserError, match=r"train.parquet cannot be read as a table"):
        list_images(path, "train")
    write(text=["a"])
    with pytest.raises(UserError, match=r"no column for the Image .there are text"):
        list_images(path, "train")
    write(image=[{"bytes": None, "path": "0.png"}], label=[0])
    with pytest.raises(UserError, match="holds no images in column 'image', only their paths"):
        list_images(path, "train")
    write(image=[image], label=[-1])
    with pytest.raises(UserError, match="row 0: its label is -1, no class"):
        list_images(path, "train")
    write(image=[image, image], label=["dog", "cat"])
    images = list_images(path, "train")
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0, 1]


def test_without_pyarrow_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "train.parquet").touch()
    with pytest.raises(UserError, match=r"train.parquet needs pyarrow: pip install pyarrow"):
        list_images(tmp_path, "train")
