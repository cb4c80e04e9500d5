import pytest
import torch

from evaluation.extractors import ClassifierExtractor, InceptionExtractor, inception_weights
from utils.errors import UserError


def test_both_weight_files_give_the_same_features(inception_files):
    images = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one = InceptionExtractor(inception_files / "inception.pth")(images)
    two = InceptionExtractor(inception_files / "classify_image_graph_def.pb")(images)
    assert one.pool.shape == (2, 2048)
    assert one.spatial.shape == (2, 7 * 17 * 17)
    assert one.logits.shape == (2, 1008)
    assert one.pool.std() > 0
    assert not torch.equal(one.pool[0], one.pool[1])
    for kind in ("pool", "spatial", "logits"):
        assert torch.equal(getattr(one, kind), getattr(two, kind))


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no weights of ADM's Inception"):
        InceptionExtractor(tmp_path / "other.pth")


def test_where_inceptions_weights_are_found(tmp_path, monkeypatch):
    """torch-fidelity's file first, in any of its places; then TensorFlow's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert inception_weights(None, download=False) is None
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "classify_image_graph_def.pb").touch()
    assert inception_weights(None).name == "classify_image_graph_def.pb"
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert inception_weights(None) == cached
    with pytest.raises(UserError, match=r"--inception: file not found: none.pth"):
        inception_weights("none.pth")


def test_classifier_features(files):
    extractor = ClassifierExtractor(files / "c.safetensors")
    features = extractor(torch.zeros(3, 16, 16, 3, dtype=torch.uint8))
    assert features.pool.shape == (3, extractor.num_features)
    assert features.logits.shape == (3, extractor.num_classes)
