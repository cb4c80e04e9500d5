"""What must hold of the masked generators whatever their weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from modeling.build import build_generator, cast_parameters
from modeling.interfaces import CodeLayout, Progress
from modeling.maskgit.generator import build
from modeling.maskgit.settings import MaskGITConfig
from sampling.noise import image_noise
from tests.support import toy
from tests.support.toy.maskgit import NETWORKS, SIZES, masked_generator, some_masked
from tests.support.toy.rar import random_codes
from utils.config import check_limits
from utils.errors import UserError

T, K = toy.NUM_CODES, toy.CODEBOOK_SIZE
NO_DROPOUT = {"dropout": 0.0, "attn_drop": 0.0, "class_label_dropout": 0.0}


@pytest.fixture(params=NETWORKS)
def network(request):
    return request.param


# -- the forward pass ------------------------------------------------------------------------------------


@torch.no_grad()
def test_every_position_sees_all_codes_and_the_class(network):
    model, codes = masked_generator(network), some_masked(random_codes(1))
    before = model(codes, torch.tensor([1]))
    assert before.shape == (1, T, K)
    assert ((model(codes, torch.tensor([toy.NUM_CLASSES])) - before).abs().amax(-1) > 1e-3).all()
    for place in range(T):
        other = codes.clone()
        other[0, place] = (other[0, place] + 1) % K
        assert ((model(other, torch.tensor([1])) - before).abs().amax(-1) > 0).all()


@torch.no_grad()
def test_masked_codes_are_one_row_of_the_table(network):
    model, codes, classes = masked_generator(network), random_codes(2), torch.tensor([0, 3])
    hidden = some_masked(codes)
    visible = codes.masked_fill(hidden < 0, 5)
    table = model.get_parameter(
        {"ViT": "model.embeddings.word_embeddings.weight", "UViT": "embeddings.weight"}[network]
    )
    table[K] = table[5]
    assert torch.equal(model(hidden, classes), model(visible, classes))


@torch.no_grad()
def test_logits_at_chosen_places_are_those_of_all(network):
    model, codes, classes = masked_generator(network), some_masked(random_codes(3)), torch.tensor([0, 3, 4])
    places = torch.tensor([[0, 2], [1, 6], [4, 5]])
    expected = model(codes, classes).gather(1, places[..., None].expand(-1, -1, K))
    torch.testing.assert_close(model(codes, classes, places), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bf16_keeps_residuals_and_logits_in_float32(network):
    exact, rounded = masked_generator(network), masked_generator(network)
    cast_parameters(rounded, torch.bfloat16)
    head = {"ViT": "model.lm_head.weight", "UViT": "lm_head.weight"}[network]
    assert rounded.get_parameter(head).dtype == torch.float32
    assert {p.dtype for block in rounded.blocks for p in block.parameters()} == {torch.bfloat16}
    outputs = []
    rounded.blocks[0].register_forward_hook(lambda _m, _x, y: outputs.append(y.dtype))
    codes, classes = some_masked(random_codes(3)), torch.tensor([0, 3, 4])
    one, two = exact(codes, classes), rounded(codes, classes)
    assert outputs == [torch.float32]
    assert two.dtype == torch.float32
    assert (one.softmax(-1) - two.softmax(-1)).abs().max() < 0.1


# -- the loss --------------------------------------------------------------------------------------------


def test_as_many_codes_are_masked_as_the_arccosine_says():
    model = masked_generator()
    times = torch.tensor([0.0, 0.5, 0.9, 0.999999])
    noise = torch.cat([times[:, None].double(), torch.rand(4, T + 1, dtype=torch.float64)], dim=1)
    expected = [max(1, round(T * math.acos(t) / (math.pi / 2))) for t in times.tolist()]
    assert model.masks(noise).sum(1).tolist() == expected
    many = model.masks(image_noise(0, range(4000), model.loss_noise))
    assert (many.sum(1) >= 1).all()
    assert float(many.double().mean()) == pytest.approx(2 / math.pi, abs=0.02)  # the integral of arccos
    assert (many.double().mean(0) - many.double().mean()).abs().max() < 0.03  # no place is preferred


@torch.no_grad()
def test_the_loss_is_the_one_computed_by_hand(network):
    model, codes, classes = masked_generator(network), random_codes(3), torch.tensor([0, 2, 3])
    noise = torch.rand(3, model.loss_noise, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    noise[:, 1] = torch.tensor([0.05, 0.5, 0.11])  # the first class is dropped
    loss = model.loss(codes, classes, Progress(0, 1), noise)
    total = weight = accuracy = 0.0
    for i, row in enumerate(noise.tolist()):
        count = max(1, round(T * math.acos(row[0]) / (math.pi / 2)))
        hidden = sorted(range(T), key=lambda j, row=row: row[2 + j])[:count]
        seen = codes[i].clone()
        seen[hidden] = -1
        logs = model(seen[None], torch.tensor([4 if i == 0 else int(classes[i])])).log_softmax(-1)[0]
        for j in range(T):
            w = 1.0 if j in hidden else 0.1
            total += w * -(0.9 * float(logs[j, codes[i, j]]) + 0.1 * float(logs[j].mean()))
            weight += w
            hit = loss.hits[i, j]
            assert hit == (logs[j].argmax() == codes[i, j]) if j in hidden else hit.isnan()
        accuracy += sum(int(logs[j].argmax()) == int(codes[i, j]) for j in hidden) / count / 3
    assert float(loss.value) == pytest.approx(total / weight, rel=1e-5)
    assert float(loss.accuracy) == pytest.approx(accuracy)


@torch.no_grad()
def test_validation_drops_no_class(network):
    model, codes, classes = masked_generator(network, label_smoothing=0.0), random_codes(2), torch.tensor([0, 1])
    noise = torch.zeros(2, model.loss_noise, dtype=torch.float64)  # all codes masked, and classes dropped in training
    expected = F.cross_entropy(model(torch.full_like(codes, -1), classes).flatten(0, 1), codes.flatten())
    torch.testing.assert_close(model.loss(codes, classes, None, noise).value, expected)
    assert float(model.loss(codes, classes, Progress(0, 1), noise).value) != pytest.approx(float(expected), rel=1e-3)


def test_the_gradient_reaches_every_weight(network):
    model = masked_generator(network).train()
    noise = image_noise(0, range(8), model.loss_noise)
    model.loss(random_codes(8), torch.arange(8) % toy.NUM_CLASSES, Progress(0, 8), noise).value.backward()
    for name, parameter in model.named_parameters():
        if not name.endswith("key.bias"):  # it moves all scores of a query alike, so its true gradient is zero
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_only_vit_has_dropout():
    codes, classes = some_masked(random_codes(2)), torch.tensor([0, 1])
    for network, equal in (("ViT", False), ("UViT", True)):
        model = masked_generator(network, dropout=0.5, attn_drop=0.5).train()
        assert torch.equal(model(codes, classes), model(codes, classes)) == equal


def test_activation_checkpointing_changes_no_gradient(network):
    grads = []
    for use_checkpoint in (False, True):
        model = masked_generator(network, use_checkpoint=use_checkpoint).train()
        torch.manual_seed(1)
        noise = image_noise(0, range(2), model.loss_noise)
        model.loss(random_codes(2), torch.tensor([0, 1]), Progress(0, 1), noise).value.backward()
        grads.append(model.blocks[0].get_parameter(next(iter(dict(model.blocks[0].named_parameters())))).grad)
    torch.testing.assert_close(*grads)


def test_initial_weights(network):
    torch.manual_seed(0)
    model = build(MaskGITConfig(model_type=network, **SIZES), CodeLayout(50, T)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif parameter.ndim == 1:
            assert (parameter == 1).all()
        elif parameter.numel() > 1000:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.1)
    noise = image_noise(0, range(2), model.loss_noise)
    loss = model.loss(torch.randint(0, 50, (2, T)), torch.tensor([0, 1]), None, noise).value
    assert loss.item() == pytest.approx(math.log(50), abs=0.1)


def test_operations_are_counted(network):
    model = masked_generator(network, **NO_DROPOUT).train()
    with FlopCounterMode(display=False) as counter:
        model.loss(random_codes(1), torch.tensor([0]), None, image_noise(0, [0], model.loss_noise))
    assert model.forward_flops() == counter.get_total_flops()


def test_sizes_that_do_not_fit_are_refused():
    for network, changes, message in (
        ("ViT", {"num_attention_heads": 5}, "not a multiple"),
        ("ViT", {"image_seq_len": T + 1}, f"image_seq_len is {T + 1}, the tokenizer has {T} codes"),
        ("UViT", {"num_hidden_layers": 3}, "num_hidden_layers 3 is odd"),
    ):
        with pytest.raises(ValueError, match=message):
            masked_generator(network, **changes)
    with pytest.raises(UserError, match="generator 'maskgit': hidden_size 30 is not a multiple"):
        build_generator(MaskGITConfig(hidden_size=30), CodeLayout(K, T))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_of_noise_are_64_bits(seed):
    with pytest.raises(UserError, match="seed is"):
        check_limits(OmegaConf.structured(MaskGITConfig(seed=seed)))
