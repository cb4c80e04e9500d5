import json

import pytest
import torch

from dataset.images import list_images
from evaluation.evaluate_tokenizer import TokenizerEvaluation
from evaluation.extractors import ClassifierExtractor
from evaluation.fid import Statistics, frechet_distance
from evaluation.reconstruction import psnr, ssim
from modeling.frozen.small_classifier import Classifier, save_classifier
from modeling.layers.codebook_usage import CodebookUsage
from tests.support import toy
from tests.support.launch import run
from utils.errors import UserError
from utils.images import to_bytes
from utils.weights import export_weights


def test_metrics_are_those_of_the_whole_set(tmp_path):
    """With a last batch that is smaller."""
    images = list_images(toy.write_images(tmp_path / "images", per_class=3), "val")
    tokenizer = toy.tokenizer(init_std=0.1)
    evaluation = TokenizerEvaluation(images, toy.IMAGE_SIZE, batch_size=5, num_workers=0)
    values = evaluation.metrics(tokenizer)
    originals = torch.stack([evaluation.crops[i] for i in range(len(images))]) / 255
    codes = tokenizer.encode(originals)
    reconstruction = tokenizer.decode(codes)
    usage = CodebookUsage(toy.CODEBOOK_SIZE)
    usage.add(codes)
    assert values == pytest.approx(
        {
            "images": 12,
            "psnr": float(psnr(originals, reconstruction).mean()),
            "ssim": float(ssim(originals, reconstruction).mean()),
            "codebook_usage": usage.usage(),
            "codebook_perplexity": usage.perplexity(),
        },
        rel=1e-5,
    )


def test_undecodable_images_are_left_out(tmp_path):
    folder = toy.write_images(tmp_path / "images", per_class=2)
    files = sorted((folder / "val").glob("*/*"))
    for file in files[:3]:
        file.write_bytes(b"no image")
    evaluation = TokenizerEvaluation(list_images(folder, "val"), toy.IMAGE_SIZE, batch_size=2, num_workers=0)
    assert evaluation.metrics(toy.tokenizer())["images"] == 5
    for file in files[3:]:
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none of the 8 images of .* can be decoded"):
        evaluation.metrics(toy.tokenizer())


def test_rfid_compares_the_same_crops(tmp_path):
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
    expected = frechet_distance(*(Statistics.from_features(f) for f in features))
    for _ in range(2):  # the second time with the kept statistics of the originals
        assert evaluation.metrics(tokenizer)["rfid"] == pytest.approx(expected, rel=1e-6)
    assert len(TokenizerEvaluation(images, toy.IMAGE_SIZE, max_images=7, **options).mine) == 7


@pytest.mark.slow
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
    assert results[0]["images"] == 20
    assert results[0].keys() == {"images", "psnr", "ssim", "rfid", "codebook_usage", "codebook_perplexity"}
    assert results[1] == pytest.approx(results[0], rel=1e-4)
    assert (tmp_path / "grid.png").is_file()
