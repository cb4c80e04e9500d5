"""What must hold of RAR whatever its weights."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from modeling.build import build_generator
from modeling.interfaces import CodeLayout, Progress
from modeling.rar.generator import RARGenerator
from modeling.rar.settings import RARConfig
from sampling.noise import image_noise
from tests.support import toy
from tests.support.toy.rar import NO_DROPOUT, SIZES, random_codes, rar_generator
from utils.errors import UserError

T, K = toy.NUM_CODES, toy.CODEBOOK_SIZE


def random_orders(rows: int) -> torch.Tensor:
    return torch.rand(rows, T, generator=torch.Generator().manual_seed(6)).argsort(1)


# -- the forward pass ------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("permuted", [False, True])
def test_logits_depend_on_the_past_only(permuted):
    model, codes, classes = rar_generator(), random_codes(1), torch.tensor([1])
    orders = random_orders(1) if permuted else None
    before = model(codes, classes, orders=orders)
    assert before.shape == (1, T + 1, K)
    for j in range(T):
        other = codes.clone()
        other[0, j] = (other[0, j] + 1) % K
        changed = (model(other, classes, orders=orders) - before).abs().amax(-1)[0]
        assert (changed[: j + 1] == 0).all()
        assert (changed[j + 1 :] > 0).all()


@torch.no_grad()
def test_a_prediction_knows_its_own_place_and_the_places_before_it():
    model, codes, classes = rar_generator(), random_codes(1), torch.tensor([1])
    order = random_orders(1)
    before = model(codes, classes, orders=order)
    for j in range(T - 1):  # swap the places of the codes j and j + 1
        other = order.clone()
        other[0, [j, j + 1]] = order[0, [j + 1, j]]
        changed = (model(codes, classes, orders=other) - before).abs().amax(-1)[0]
        assert (changed[:j] == 0).all()
        assert (changed[j:] > 0).all()


@torch.no_grad()
def test_raster_order_is_the_identity():
    model, codes, classes = rar_generator(), random_codes(2), torch.tensor([1, 4])
    raster = torch.arange(T).expand(2, -1)
    for count in (0, 3, T):
        expected = model(codes[:, :count], classes, orders=raster)
        torch.testing.assert_close(model(codes[:, :count], classes), expected)


@torch.no_grad()
def test_the_class_conditions_every_position():
    model, codes = rar_generator(), random_codes(1)
    one, other = (model(codes, torch.tensor([c])) for c in (0, toy.NUM_CLASSES))
    assert ((one - other).abs().amax(-1) > 1e-3).all()


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch():
    model, codes, classes, orders = rar_generator(), random_codes(3), torch.tensor([0, 3, 4]), random_orders(3)
    together = model(codes, classes, orders=orders)
    for i in range(3):
        alone = model(codes[i : i + 1], classes[i : i + 1], orders=orders[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)


# -- the loss --------------------------------------------------------------------------------------------


def loss_by_hand(model: RARGenerator, codes: torch.Tensor, class_id: int, order: list[int]) -> float:
    """The loss of one image from the published tables, one prediction after another; the blocks run on the prefix."""
    embedding, own, target = model.embeddings.weight, model.pos_embed[0], model.target_aware_pos_embed[0]
    class_row, nats = embedding[K + 1 + class_id], 0.0
    for predicted in range(T):
        tokens = [model.cls_token[0, 0] + own[0], class_row + own[1]]
        tokens += [embedding[codes[order[j]]] + own[2 + order[j]] for j in range(predicted)]
        for j in range(predicted + 1):  # the position before code j is told where code j belongs
            tokens[1 + j] = tokens[1 + j] + target[2 + order[j]]
        x = torch.stack(tokens)[None]
        condition = torch.stack([class_row + model.timesteps_embeddings[0, p] for p in range(len(tokens))])[None]
        for block in model.blocks:
            x = block(x, condition)
        scale, shift = model.adaln_before_head.adaLN_modulation(condition[:, -1]).chunk(2, dim=-1)
        last = F.layer_norm(x[:, -1], x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        nats -= model.lm_head(last).log_softmax(-1)[0, codes[order[predicted]]]
    return float(nats / T)


@torch.no_grad()
def test_the_loss_of_permuted_orders_is_the_one_computed_by_hand():
    model, codes, classes = rar_generator(), random_codes(3), torch.tensor([0, 2, 4])
    noise = torch.rand(3, 1 + T, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    halfway = Progress((125_000 + 187_500) // 2, 250_000)
    noise[:, 0] = torch.tensor([0.49, 0.51, 0.0])  # random, raster, random
    loss = model.loss(codes, classes, halfway, noise)
    orders = [sorted(range(T), key=lambda j, row=row: row[1 + j]) for row in noise.tolist()]
    orders[1] = list(range(T))
    by_hand = [loss_by_hand(model, codes[i], int(classes[i]), orders[i]) for i in range(3)]
    assert float(loss.value) == pytest.approx(sum(by_hand) / 3, rel=1e-5)
    assert float(loss.log["random_orders"]) == pytest.approx(2 / 3)
    assert float(loss.accuracy) == float(loss.hits.mean())
    for i, order in enumerate(orders):
        logits = model(codes[i : i + 1, order[:-1]], classes[i : i + 1], orders=torch.tensor([order]))[0]
        for t, place in enumerate(order):
            assert loss.hits[i, place] == (logits[t].argmax() == codes[i, place])


def test_orders_are_random_as_often_as_the_schedule_says():
    config = RARConfig(randomness_anneal_start=10, randomness_anneal_end=20)
    assert [config.random_share(step) for step in (0, 10, 11, 15, 20, 99)] == pytest.approx([1, 1, 0.9, 0.5, 0, 0])
    always_raster = RARConfig(randomness_anneal_start=0, randomness_anneal_end=0)
    assert always_raster.random_share(0) == 0
    model = rar_generator(randomness_anneal_start=10, randomness_anneal_end=20)
    noise = image_noise(0, range(4000), model.loss_noise)
    for step, share in ((0, 1.0), (15, 0.5), (20, 0.0)):
        orders, random = model.orders(Progress(step, 30), noise)
        assert float(random.float().mean()) == pytest.approx(share, abs=0.03)
        assert (orders.sort(1).values == torch.arange(T)).all()
        assert (orders[~random] == torch.arange(T)).all()
    orders, _ = model.orders(Progress(0, 30), noise)
    counts = torch.stack([(orders == place).sum(0) for place in range(T)])
    assert (counts / 4000 - 1 / T).abs().max() < 0.03


@torch.no_grad()
def test_validation_is_in_raster_order():
    model, codes, classes = rar_generator(), random_codes(2), torch.tensor([0, 1])
    loss = model.loss(codes, classes, None, torch.rand(2, model.loss_noise))
    expected = F.cross_entropy(model(codes[:, :-1], classes).flatten(0, 1), codes.flatten())
    torch.testing.assert_close(loss.value, expected)
    assert loss.log == {}


def test_the_gradient_reaches_every_weight():
    model = rar_generator().train()
    noise = image_noise(0, range(8), model.loss_noise)
    model.loss(random_codes(8), torch.arange(8) % toy.NUM_CLASSES, Progress(0, 8), noise).value.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("k_norm.bias"):  # it moves all scores of a query alike, so its true gradient is zero
            assert parameter.grad.abs().max() > 0, name
    assert (model.target_aware_pos_embed.grad[0, 2 : 2 + T].abs().amax(-1) > 0).all()
    assert (model.target_aware_pos_embed.grad[0, :2] == 0).all()


def test_class_dropout_uses_the_no_class_row():
    model = rar_generator(**NO_DROPOUT | {"class_label_dropout": 1.0})
    codes = random_codes(2)
    dropped = model.train()(codes, torch.tensor([0, 1]))
    torch.testing.assert_close(dropped, model.eval()(codes, torch.tensor([model.num_classes] * 2)))


def test_activation_checkpointing_changes_no_gradient():
    grads = []
    for use_checkpoint in (False, True):
        model = rar_generator(use_checkpoint=use_checkpoint).train()
        torch.manual_seed(1)
        noise = image_noise(0, range(2), model.loss_noise)
        model.loss(random_codes(2), torch.tensor([0, 1]), Progress(0, 1), noise).value.backward()
        grads.append(model.embeddings.weight.grad)
    torch.testing.assert_close(*grads)


def test_initial_weights():
    torch.manual_seed(0)
    model = RARGenerator(RARConfig(**SIZES), CodeLayout(50, T))
    x, condition = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    assert torch.equal(model.blocks[0](x, condition), x)
    assert (model.cls_token == 0).all()
    for name in ("embeddings.weight", "pos_embed", "target_aware_pos_embed", "timesteps_embeddings", "lm_head.weight"):
        assert float(model.get_parameter(name).detach().std()) == pytest.approx(0.02, rel=0.1)
    loss = model.loss(torch.randint(0, 50, (2, T)), torch.tensor([0, 1])).value
    assert loss.item() == pytest.approx(math.log(50), abs=0.05)


def test_sizes_that_do_not_fit_are_refused():
    for changes, message in (
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"image_seq_len": T + 1}, "the tokenizer has"),
        ({"randomness_anneal_start": 9, "randomness_anneal_end": 8}, "randomness_anneal_end 8 is before"),
    ):
        with pytest.raises(ValueError, match=message):
            rar_generator(**changes)


def test_operations_are_counted():
    """torch's counter counts the whole score matrix of attention; only the causal half is needed."""
    model = rar_generator(**NO_DROPOUT).train()
    with FlopCounterMode(display=False) as counter:
        model.loss(random_codes(1), torch.tensor([0]))
    length = T + 1
    full, causal = 2 * 2 * 2 * 32 * length * length, 2 * 2 * 32 * length * (length + 1)
    assert model.forward_flops() == counter.get_total_flops() - full + causal


def test_a_registered_generator_refuses_with_one_line():
    with pytest.raises(UserError, match="generator 'rar': randomness_anneal_end 1 is before randomness_anneal_start 2"):
        build_generator(RARConfig(randomness_anneal_start=2, randomness_anneal_end=1), CodeLayout(K, T))
