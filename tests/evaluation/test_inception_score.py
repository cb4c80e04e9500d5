import numpy as np
import pytest

from evaluation.inception_score import inception_score
from tests.parity.deterministic import normal
from tests.support.adm import sample_activations


def test_inception_score_is_adms(parity):
    expected = parity("adm_metrics")
    logits = sample_activations()[0] @ (normal("adm-softmax", (2048, 1008)) * np.float32(0.05))
    assert inception_score(logits) == pytest.approx(float(expected["inception_score"]), rel=1e-5)
    assert inception_score(logits, 800) == pytest.approx(float(expected["inception_score_split_800"]), rel=1e-5)


def test_extreme_predictions():
    """1 if all images get the same prediction, the number of classes if each class is predicted surely."""
    assert inception_score(np.zeros((10, 4))) == pytest.approx(1)
    assert inception_score(1000 * np.eye(4)) == pytest.approx(4)
