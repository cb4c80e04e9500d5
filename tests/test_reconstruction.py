"""PSNR, SSIM, codebook usage, rFID: against plain formulas, and on any number of processes."""

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from dataset.image_folder import list_images
from evaluation.adm_metrics import RunningStatistics, frechet_distance, statistics
from evaluation.evaluate_tokenizer import TokenizerEvaluation
from evaluation.extractors import ClassifierExtractor
from evaluation.reconstruction import psnr, ssim
from modeling.frozen.small_classifier import Classifier, save_classifier
from modeling.layers.codebook_usage import CodebookUsage
from tests.support import toy
from tests.support.launch import run
from utils.images import to_bytes
from utils.weights import export_weights


def reference_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004 in numpy and scipy, one channel (H, W), float64."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def smooth(a: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(a, taps, 0), taps, 1)[5:-5, 5:-5]

    mx, my = smooth(x), smooth(y)
    vx, vy, cov = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float(np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))))


def test_ssim_and_psnr():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 20, 33, dtype=torch.float64)
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    expected = [np.mean([reference_ssim(x[i, c].numpy(), y[i, c].numpy()) for c in range(3)]) for i in range(2)]
    torch.testing.assert_close(ssim(x, y).double(), torch.tensor(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(ssim(x, x), torch.ones(2))
    mse = ((x - y) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(psnr(x, y).double(), 10 * torch.log10(1 / mse), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(x[..., :10], y[..., :10])


def test_codebook_usage():
    usage = CodebookUsage(8)
    usage.add(torch.tensor([[0, 1], [2, 3]]))
    assert usage.usage() == 0.5 and usage.perplexity() == pytest.approx(4.0)


def test_running_statistics_are_the_statistics():
    torch.manual_seed(0)
    features = torch.randn(300, 7) @ torch.randn(7, 7) + 50
    running = RunningStatistics(7)
    for batch in features.split(32):
        running.add(batch)
    one, two = running.statistics(), statistics(features)
    torch.testing.assert_close(one.mu, two.mu)
    torch.testing.assert_close(one.sigma, two.sigma, rtol=1e-9, atol=1e-9)


def test_bytes_are_rounded_for_reconstructions():
    x = torch.tensor([0.0, 0.5 / 255, 1.6 / 255, 1.0]).view(1, 1, 4).expand(3, 1, 4)
    assert to_bytes(x)[0, :, 0].tolist() == [0, 0, 1, 255]
    assert to_bytes(x, rounded=True)[0, :, 0].tolist() == [0, 1, 2, 255]


def test_rfid_is_that_of_the_same_crops(tmp_path):
    images = list_images(toy.write_images(tmp_path / "images"), "val")
    torch.manual_seed(0)
    save_classifier(tmp_path / "c.safetensors", Classifier(4), 4, 0.5)
    extractor = ClassifierExtractor(tmp_path / "c.safetensors")
    tokenizer = toy.tokenizer()
    options = {"batch_size": 5, "num_workers": 0, "inception": extractor}
    evaluation = TokenizerEvaluation(images, toy.IMAGE_SIZE, **options)
    originals = torch.stack([evaluation.crops[i] for i in range(len(images))])
    drawn = to_bytes(tokenizer.decode(tokenizer.encode(originals / 255)), rounded=True)
    features = [extractor(x).pool for x in (originals.movedim(1, -1), drawn)]
    expected = frechet_distance(*(statistics(f) for f in features))
    for _ in range(2):  # the second time with the remembered statistics of the originals
        assert evaluation.metrics(tokenizer)["rfid"] == pytest.approx(expected, rel=1e-6)
    assert len(TokenizerEvaluation(images, toy.IMAGE_SIZE, max_images=7, **options).mine) == 7


def test_evaluate_tokenizer_as_a_command(tmp_path):
    images = toy.write_images(tmp_path / "images", per_class=5)
    config = toy.write_tokenizer_config(tmp_path / "2.yaml", 2)
    weights = export_weights(tmp_path / "w", toy.tokenizer().state_dict())[1]
    save_classifier(tmp_path / "c.safetensors", Classifier(4), 4, 0.5)
    results = []
    for processes in (1, 2):
        run(
            *("-m", "evaluation.evaluate_tokenizer", "--data_path", images, "--tokenizer_config", config),
            *("--tokenizer_checkpoint", weights, "--metrics", "psnr,ssim,rfid", "--num_workers", 0),
            *("--classifier", tmp_path / "c.safetensors", "--batch_size", 4),
            *("--json", tmp_path / f"{processes}.json", "--grid", tmp_path / "grid.png"),
            processes=processes,
        )
        results.append(json.loads((tmp_path / f"{processes}.json").read_text()))
    assert results[0]["images"] == 20 and results[0].keys() == {
        *("images", "psnr", "ssim", "rfid", "codebook_usage", "codebook_perplexity")
    }
    assert results[1] == pytest.approx(results[0], rel=1e-4)
    assert (tmp_path / "grid.png").is_file()
