"""Attention of a whole sequence: every way to compute it gives the same numbers."""

from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from modeling.layers.attention import (
    MAX_MATERIALISED_LENGTH,
    SDPBackend,
    _names,
    attention,
    choose_kernels,
    describe_kernels,
    fused_attention,
    materialised_attention,
)


def heads(length: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """q, k, v (2, 3, length, 8) not contiguous, as the layers make them."""
    q, k, v = torch.randn(2, length, 3, 3, 8, generator=torch.Generator().manual_seed(0)).permute(2, 0, 3, 1, 4)
    return [x.to(dtype).detach().requires_grad_() for x in (2 * q, k, v)]


def by_definition(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    q, k, v = (x.double() for x in (q, k, v))
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), float("-inf"))
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 40, MAX_MATERIALISED_LENGTH, MAX_MATERIALISED_LENGTH + 1])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_attention_is_its_definition_with_its_gradients(dtype, tolerance, length, causal):
    inputs = heads(length, dtype)
    result, expected = attention(*inputs, causal=causal), by_definition(*inputs, causal)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)
    out = torch.randn(result.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    gradients = torch.autograd.grad(result, inputs, out)
    for gradient, reference in zip(gradients, torch.autograd.grad(expected, inputs, out.double()), strict=True):
        torch.testing.assert_close(gradient, reference, rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("causal", [True, False])
def test_fewer_queries_than_keys(causal):
    q, k, v = heads(40)
    result = materialised_attention(q[:, :, :7], k, v, causal=causal)
    torch.testing.assert_close(result.double(), by_definition(q[:, :, :7], k, v, causal), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [40, MAX_MATERIALISED_LENGTH + 1])
def test_dropout_drops_attention_weights(length):
    """With one-hot values the output is the matrix of attention weights."""
    q, k, _ = heads(length)
    v = torch.eye(length).expand(2, 3, length, length)
    torch.manual_seed(0)
    with_dropout, without = attention(q, k, v, causal=True, dropout=0.25), attention(q, k, v, causal=True)
    kept = with_dropout != 0
    torch.testing.assert_close(with_dropout[kept], without[kept] / 0.75)
    assert float(kept[without != 0].float().mean()) == pytest.approx(0.75, abs=0.03)


def test_sequences_of_a_batch_are_independent():
    q, k, v = heads(40)
    apart = torch.cat([attention(q[i : i + 1], k[i : i + 1], v[i : i + 1], causal=True) for i in range(2)])
    torch.testing.assert_close(attention(q, k, v, causal=True), apart)


def test_without_gradients_scores_take_no_memory():
    """Inference uses the fused kernel for every length."""
    inputs = [x.detach() for x in heads(40)]
    assert torch.equal(attention(*inputs, causal=True), F.scaled_dot_product_attention(*inputs, is_causal=True))


HOPPER, AMPERE, BLACKWELL = (9, 0), (8, 0), (10, 0)
TORCH_2_11, TORCH_2_9 = 91900, 91002  # the cuDNN that each of these versions of PyTorch comes with


@pytest.mark.parametrize("capability", [HOPPER, AMPERE, BLACKWELL])
@pytest.mark.parametrize("cudnn", [0, TORCH_2_9, TORCH_2_11, 93000])
def test_dropout_and_growing_lengths_never_use_cudnn(capability, cudnn):
    """On Hopper torch 2.11 prefers cuDNN, which knows dropout in sixteenths only."""
    for options in ({"dropout": True}, {"dropout": True, "growing": True}, {"dropout": False, "growing": True}):
        kernels = choose_kernels(capability, cudnn, **options)
        assert SDPBackend.CUDNN_ATTENTION not in kernels
        assert {SDPBackend.FLASH_ATTENTION, SDPBackend.MATH} < set(kernels)  # half precision, and anything else


@pytest.mark.parametrize(
    ("capability", "cudnn", "used"),
    [(HOPPER, TORCH_2_11, True), (HOPPER, TORCH_2_9, False), (AMPERE, TORCH_2_11, False), (BLACKWELL, 93000, False)],
)
def test_cudnn_is_used_where_it_is_right(capability, cudnn, used):
    assert (SDPBackend.CUDNN_ATTENTION in choose_kernels(capability, cudnn, dropout=False)) == used


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: HOPPER)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: TORCH_2_11)
    _names.cache_clear()
    yield
    _names.cache_clear()


def test_the_choice_is_one_line(hopper):
    line = describe_kernels(torch.device("cuda", 0))
    assert "attention: FlashAttention, memory-efficient, materialised with dropout; cuDNN, FlashAttention" in line
    assert f"torch {torch.__version__}, cuDNN {TORCH_2_11}" in line
    assert "CPU" in describe_kernels(torch.device("cpu"))


@pytest.mark.parametrize("options", [{"dropout": 0.1}, {"growing": True}])
def test_the_choice_reaches_pytorch(hopper, options):
    """In a graph that dynamo traces without a break, with tensors that pretend to be on a GPU."""
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph.code)
        return graph

    with FakeTensorMode(), torch.no_grad():
        q = torch.zeros(2, 3, 40, 8, device="cuda", dtype=torch.bfloat16)
        torch._dynamo.reset()
        run = torch.compile(lambda q: fused_attention(q, q, q, causal=True, **options), backend=backend, fullgraph=True)
        with suppress(RuntimeError):  # the kernel itself needs a GPU
            run(q)
    (code,) = graphs
    before = code[: code.index("scaled_dot_product_attention(")]
    assert "FLASH_ATTENTION" in before
    assert "CUDNN_ATTENTION" not in before
