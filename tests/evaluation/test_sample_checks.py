"""Faults of sample files, in words."""

import re

import numpy as np
import pytest

from evaluation.evaluate_samples import SampleEvaluation
from evaluation.extractors import ClassifierExtractor
from evaluation.images import open_images
from evaluation.reference import Reference
from evaluation.sample_checks import Expected, SampleFacts

EXPECTED = Expected(40, 8, 4)


def facts_of(tmp_path, images: np.ndarray, labels: np.ndarray | None = None) -> SampleFacts:
    np.savez(tmp_path / "s.npz", arr_0=images)
    facts = SampleFacts(open_images(tmp_path / "s.npz"), labels)
    assert sum(len(batch) for batch in facts.batches(16)) == len(images)
    return facts


def noise(count: int = 40, size: int = 8, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (count, size, size, 3), dtype=np.uint8)


LABELS = np.arange(40) % 4


def test_good_samples_have_no_faults(tmp_path):
    facts = facts_of(tmp_path, noise(), LABELS)
    assert facts.faults(EXPECTED) == []
    assert "40 images of 8x8, pixels 0 to 255, 0 exact copies, 10 of each of 4 classes" in facts.describe()
    assert facts_of(tmp_path, noise(41), np.arange(41) % 4).faults() == []  # one more of the first class


def one_seed_on_two_processes() -> np.ndarray:
    return np.concatenate([noise(20), noise(20)])


@pytest.mark.parametrize(
    ("images", "labels", "text", "fatal"),
    [
        (one_seed_on_two_processes(), LABELS, "20 of 40 images are exact copies .* number 20 of number 0", True),
        (noise(39), LABELS[:39], "there are 39 images, the published value has 40", True),
        (noise(size=16), LABELS, "images are 16x16, the model's 8x8", True),
        (noise(high=2), LABELS, r"no pixel is above 1: images in \[0, 1\]", True),
        (noise(low=127), LABELS, "no pixel is below 127", True),
        (noise(low=60, high=200), LABELS, "pixels are 60 to 199", False),
        (noise(), np.zeros(40, int), "unbalanced: 0 images of class 1, 40 of class 0", True),
        (noise(), LABELS + 1, "classes are 1 to 4, the model has 0 to 3", True),
        (noise(), None, "stores no classes", False),
    ],
)
def test_each_fault_is_found(tmp_path, images, labels, text, fatal):
    [fault] = facts_of(tmp_path, images, labels).faults(EXPECTED)
    assert fault.fatal == fatal
    assert re.search(text, fault.text)


def test_images_of_one_colour_are_counted(tmp_path):
    images = noise()
    images[3] = (200, 10, 10)
    [fault] = facts_of(tmp_path, images, LABELS).faults(EXPECTED)
    assert fault.text.startswith("1 images have one colour only")


def test_the_evaluator_warns_of_what_it_sees(files, tmp_path, capsys):
    images = noise(50, 16)
    np.savez(tmp_path / "s.npz", arr_0=np.concatenate([images, images]), arr_1=np.zeros(100, int))
    extractor = ClassifierExtractor(files / "c.safetensors")
    SampleEvaluation(files / "reference.npz", tmp_path / "s.npz", ("fid",)).run(extractor, 64)
    assert "warning: 50 of 100 images are exact copies" in capsys.readouterr().err


def test_a_reference_is_described_in_words(files, tmp_path):
    images, statistics = noise(20), {"mu": np.zeros(3), "sigma": np.eye(3)}
    assert "150 images of 16x16; the file does not say of which split; FID compares with these images" in (
        Reference(files / "reference.npz").describe()
    )
    np.savez(tmp_path / "VIRTUAL_imagenet256_labeled.npz", arr_0=images, **statistics)
    text = Reference(tmp_path / "VIRTUAL_imagenet256_labeled.npz").describe()
    assert "20 images of 8x8, statistics of pool features; ADM's file: statistics of the whole training set" in text
    assert "stored statistics give FID" in text
    np.savez(tmp_path / "r.npz", split=np.array("val"), **statistics)
    assert "statistics of pool features; of the split 'val'" in Reference(tmp_path / "r.npz").describe()
