"""Generated kernels and their traffic in a compiled training block: a change that doubles them fails."""

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.training_kernels import count_block, count_generator_block
from modeling.layers.norms import RMSNorm
from tests.support.paths import ROOT
from train_generator.config import ARConfig
from utils.config import load_config

BATCH = 128
# Of AliTok-B's block with torch 2.14.1 at the published batch; docs/benchmarks.md.
FORWARD_KERNELS, BACKWARD_KERNELS = 12, 17
TRAFFIC = 4.79e9  # bytes


@pytest.mark.slow
def test_kernels_and_bytes_of_a_block():
    config = load_config(ARConfig, "", [f"config={ROOT}/configs/alitok_b.yaml", "experiment.output_dir=unused"])
    forward, backward = count_generator_block(config, BATCH)
    assert 0 < forward.kernels <= FORWARD_KERNELS + 2
    assert 0 < backward.kernels <= BACKWARD_KERNELS + 3
    residual = BATCH * 273 * 768 * 4
    assert 10 * residual < forward.traffic + backward.traffic < 1.1 * TRAFFIC


@pytest.mark.slow
def test_the_count_is_right_for_a_norm():
    """Forward: reads x, writes the norm. Backward: reads x and the gradient, writes that of x; reads both
    again for the gradient of the weight."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        norm = RMSNorm(512)
    forward, backward = count_block(norm, 64, 8)
    x = 8 * 64 * 512 * 4
    assert forward.kernels == 1
    assert 2 * x <= forward.traffic < 2.1 * x
    assert 5 * x <= backward.traffic < 5.1 * x
