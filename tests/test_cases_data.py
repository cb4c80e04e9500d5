"""What people's data sets hold, through the programs that read them: the right outcome of each case."""

import sys
from pathlib import Path

import numpy as np
import pytest

import pretokenization
from dataset.code_dataset import CodeSource
from dataset.token_cache.reader import TokenCache, open_token_cache
from evaluation import make_reference
from tests.support import archives, data_cases, toy
from tests.support.files import folder_contents
from tests.support.trainings import generator_trainer, tokenizer_trainer
from utils.errors import UserError
from utils.weights import export_weights

ON_THE_FLY = "dataset.params.pretokenization=null"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """A folder with the configuration and the weights of a toy tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    toy.write_tokenizer_config(folder / "tokenizer.yaml", 2)
    export_weights(folder, toy.tokenizer(init_std=0.3).state_dict())
    return folder


@pytest.fixture
def command(monkeypatch):
    """command(main, arguments...) runs a program in this process; errors for the user leave it as SystemExit."""

    def run(main, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        main()

    return run


@pytest.fixture
def pretokenize(command, tokenizer, tmp_path):
    """pretokenize(data, split) -> the token cache of a split."""

    def run(data: Path, split: str = "train") -> TokenCache:
        cache = tmp_path / f"cache_{split}"
        weights = ("--tokenizer_config", tokenizer / "tokenizer.yaml")
        weights += ("--tokenizer_checkpoint", tokenizer / "model.safetensors")
        sizes = ("--img_size", toy.IMAGE_SIZE, "--num_workers", 0, "--device", "cpu")
        main = lambda: pretokenization.main(pretokenization.Defaults(), "")  # noqa: E731
        command(main, "--data_path", data, "--split", split, "--cached_path", cache, *weights, *sizes)
        return open_token_cache(cache)

    return run


def validation_classes(source: CodeSource) -> list[int]:
    rows = np.arange(len(source))
    return source[rows, np.zeros((len(rows), 3)), rows].class_ids.tolist()


def test_hidden_folders(pretokenize, tmp_path, capfd):
    cache = pretokenize(data_cases.with_hidden_folders(tmp_path / "data"))
    assert cache.classes == data_cases.CLASSES
    assert len(cache) == 18
    assert cache.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert "train: passed over 5 hidden or system names" in capfd.readouterr().err


def test_hidden_folders_in_a_cache_of_another_program(tmp_path):
    for name in ("a/0", "b/0", ".ipynb_checkpoints/0", "__MACOSX/0", "b/._0", "b/.trash/1"):
        path = tmp_path / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, codes=np.zeros((2, 7), np.int64))
    cache = open_token_cache(tmp_path)
    assert cache.classes == ("a", "b")
    assert cache.paths() == ["a/0", "b/0"]
    assert cache.labels.tolist() == [0, 1]


def test_resource_forks(pretokenize, tmp_path):
    data = data_cases.with_resource_forks(tmp_path / "images")
    assert len(pretokenize(data)) == 18
    trainer = tokenizer_trainer(tmp_path, "run", 1, "dataset.params.max_bad_fraction=0")
    assert len(trainer.dataset) == 18
    assert all("._" not in path for path in trainer.dataset.images.paths)


def test_links_in_circles(pretokenize, tmp_path, capfd):
    assert len(pretokenize(data_cases.with_loops(tmp_path / "data"))) == 19
    assert "4 links to a folder around them" in capfd.readouterr().err


def test_more_than_eight_bits(command, tmp_path, capfd):
    data, output = data_cases.deep_pixels(tmp_path / "data"), tmp_path / "r.npz"
    arguments = ("--data_path", data, "--split", "train", "--img_size", 32, "--output", output, "--device", "cpu")
    for name, mode in (("3-int32.tif", "I"), ("4-float.tif", "F")):
        with pytest.raises(SystemExit):
            command(make_reference.main, *arguments)
        assert f"{name} cannot be decoded (mode {mode}: pixels of 32 bits" in capfd.readouterr().err
        assert not output.exists()
        (data / "train" / "a-first" / name).unlink()
    command(make_reference.main, *arguments)
    with np.load(output, allow_pickle=False) as arrays:
        images = arrays["arr_0"]
    assert images.shape == (3, 32, 32, 3)
    for image in images:
        assert image.min() == 0
        assert image.max() == 255
        assert len(np.unique(image)) == 32


def test_a_split_without_a_class_in_caches(pretokenize, tmp_path):
    data = data_cases.split_without_class(tmp_path / "data")
    training, held_out = pretokenize(data), pretokenize(data, "val")
    paths = (f"dataset.params.pretokenization={training.path}", f"dataset.params.pretokenization_val={held_out.path}")
    trainer = generator_trainer(tmp_path, "run", *paths)
    assert held_out.labels.tolist() == [0] * 6 + [1] * 6
    assert validation_classes(trainer.data.validation) == [1] * 6 + [2] * 6
    swapped = (f"dataset.params.pretokenization={held_out.path}", f"dataset.params.pretokenization_val={training.path}")
    with pytest.raises(UserError, match=r"class 'a-first' of .*cache_train is not among the 2 classes"):
        generator_trainer(tmp_path, "swapped", *swapped)


def test_a_split_without_a_class_in_images(command, tokenizer, tmp_path):
    data = data_cases.split_without_class(tmp_path / "data")
    weights = f"experiment.tokenizer_checkpoint={tokenizer / 'model.safetensors'}"
    trainer = generator_trainer(tmp_path, "run", ON_THE_FLY, f"dataset.params.data_path={data}", weights)
    assert validation_classes(trainer.data.validation) == [1] * 6 + [2] * 6
    output = tmp_path / "r.npz"
    command(make_reference.main, "--data_path", data, "--img_size", 32, "--output", output, "--device", "cpu")
    with np.load(output, allow_pickle=False) as arrays:
        assert arrays["arr_1"].tolist() == [1] * 6 + [2] * 6


def test_classes_of_a_resumed_training(pretokenize, tmp_path):
    """A cache of the same number of images with a class less: its numbers would mean other classes."""
    data = data_cases.split_without_class(tmp_path / "data")
    caches = [f"dataset.params.pretokenization={pretokenize(data, split).path}" for split in ("train", "val")]
    one_step = ("dataset.params.pretokenization_val=null", "training.max_train_steps=1", "experiment.generate_every=0")
    generator_trainer(tmp_path, "run", caches[0], *one_step).run()
    with pytest.raises(UserError, match="class 0 is 'b-second' in the training data, it was 'a-first' before"):
        generator_trainer(tmp_path, "run", caches[1], *one_step, "experiment.resume=auto")


def contents(cache: Path) -> dict[str, bytes]:
    return {name: data for name, data in folder_contents(cache).items() if name != "metadata.json"}


def test_a_token_cache_of_an_archive_is_that_of_the_folder(pretokenize, tokenizer, command, tmp_path, capfd):
    """The check finds the images in the archive, too."""
    folder = data_cases.image_folder(tmp_path / "folder")
    cache = pretokenize(folder)
    expected = contents(cache.path)
    cache.path.rename(tmp_path / "first")
    archive = archives.write_zip(tmp_path / "all.zip", archives.in_folders("train", "all/train/"))
    cache = pretokenize(archive)
    assert contents(cache.path) == expected
    assert cache.metadata.data_path == str(archive)
    command(lambda: pretokenization.main(pretokenization.Defaults(), ""), "--check", cache.path, "--device", "cpu")
    assert "0.000% of the codes differ" in capfd.readouterr().out


def test_trainings_read_archives(tokenizer, tmp_path):
    archives.imagenet_tars(tmp_path / "images")
    trainer = tokenizer_trainer(tmp_path, "tokenizer", 1)
    batch = trainer.dataset[np.arange(18), np.zeros((18, 3)), np.arange(18)]
    assert batch.failures == []
    data = (f"dataset.params.data_path={tmp_path / 'images'}", ON_THE_FLY)
    weights = f"experiment.tokenizer_checkpoint={tokenizer / 'model.safetensors'}"
    trainer = generator_trainer(tmp_path, "generator", *data, weights)
    assert validation_classes(trainer.data.validation) == [0] * 6 + [1] * 6 + [2] * 6
    archives.write_tar(tmp_path / "one" / "train.tar", archives.in_folders("train"))
    data = (f"dataset.params.data_path={tmp_path / 'one'}", ON_THE_FLY)
    assert generator_trainer(tmp_path, "alone", *data, weights).data.validation is None


def test_a_reference_from_shards(command, tmp_path):
    output = tmp_path / "r.npz"
    shards, folder = archives.webdataset(tmp_path / "shards"), data_cases.image_folder(tmp_path / "folder")
    for data in (shards, folder):
        command(make_reference.main, "--data_path", data, "--img_size", 32, "--output", output, "--device", "cpu")
        with np.load(output, allow_pickle=False) as arrays:
            found = {"images": arrays["arr_0"], "labels": arrays["arr_1"]}
        assert found["labels"].tolist() == [0] * 6 + [1] * 6 + [2] * 6
        assert found["images"].shape == (18, 32, 32, 3)
        if data == shards:
            sums = found["images"].astype(int).sum((1, 2, 3)).tolist()
    assert sorted(found["images"].astype(int).sum((1, 2, 3)).tolist()) == sorted(sums)


def test_rarer_suffixes(pretokenize, tmp_path, capfd):
    cache = pretokenize(data_cases.other_suffixes(tmp_path / "data"))
    assert len(cache) == 18 + 10
    assert np.bincount(cache.labels, minlength=5).tolist() == [9, 9, 9, 1, 0]
    messages = capfd.readouterr().err
    assert "train: passed over 1 .txt" in messages
    assert "1 classes without images: e-empty" in messages
