"""What the benchmarks compare with computes the same."""

from functools import partial

import torch

from benchmarks import reference_rar_sampler
from benchmarks.reference_generator import PlainGenerator, PlainStep
from benchmarks.reference_masked_sampler import plain_masked_sample
from benchmarks.reference_sampler import plain_logits, plain_sample
from modeling.alitok.generator import AliTokGenerator, GeneratorConfig
from modeling.interfaces import CodeLayout
from sampling.masked import MaskedDecoder, MaskedSettings
from sampling.noise import image_noise
from tests.support import toy
from tests.support.decoding import cached_logits
from tests.support.toy.maskgit import masked_generator
from tests.support.toy.rar import rar_generator
from train_generator.trainer import parameter_groups

LAYOUT = CodeLayout(128, 73, 9, (8, 8))


def config() -> GeneratorConfig:
    """No dropout."""
    return GeneratorConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        condition_num_classes=4,
        dropout=0.0,
        attn_drop=0.0,
        tok_dropout=0.0,
        class_label_dropout=0.0,
    )


def test_the_plain_training_step_computes_the_same():
    torch.manual_seed(0)
    ours = AliTokGenerator(config(), LAYOUT).train()
    plain = PlainGenerator(config(), LAYOUT)
    plain.load_state_dict(ours.state_dict())
    step = PlainStep(plain, partial(torch.autocast, "cpu", enabled=False))
    optimizer = torch.optim.AdamW(parameter_groups(ours, 0.03), lr=4e-4, betas=(0.9, 0.96), fused=True)
    for i in range(3):
        codes, class_ids = torch.randint(0, 128, (4, 73)), torch.tensor([0, 1, 2, 3])
        loss = ours.loss(codes, class_ids).value
        loss.backward()
        torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert abs(step(codes, class_ids) - float(loss.detach())) < 1e-4, i


def test_the_plain_sampler_has_the_same_distributions():
    torch.manual_seed(0)
    model = AliTokGenerator(config(), LAYOUT).eval()
    torch.nn.init.normal_(model.output.weight, std=0.3)
    class_ids, codes = torch.tensor([0, 3]), torch.randint(0, 128, (2, 73))
    cache = [None, None]
    mask = torch.full((74, 74), float("-inf")).triu(1)
    for t, expected in enumerate(cached_logits(model, codes, class_ids)):
        torch.testing.assert_close(plain_logits(model, codes[:, :t], class_ids, cache, mask), expected)
    assert plain_sample(plain_logits, model, class_ids, 4.0, 1.0, 5).shape == (2, 5)


def test_the_plain_sampler_of_rar_has_the_same_distributions():
    model, class_ids = rar_generator(), torch.tensor([0, toy.NUM_CLASSES])
    codes = torch.randint(0, toy.CODEBOOK_SIZE, (2, toy.NUM_CODES))
    cache, mask = [None, None], torch.full((toy.NUM_CODES + 2,) * 2, float("-inf")).triu(1)
    for t, expected in enumerate(cached_logits(model, codes, class_ids)):
        found = reference_rar_sampler.plain_logits(model, codes[:, :t], class_ids, cache, mask)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert plain_sample(reference_rar_sampler.plain_logits, model, torch.tensor([0]), 4.0, 1.0, 5).shape == (1, 5)


def test_the_plain_masked_sampler_draws_the_same():
    """Without noise the same codes; with noise codes of the same frequencies."""
    model, classes = masked_generator(), torch.arange(4)
    greedy = MaskedSettings(4, 3.0, "constant", temperature=0)
    expected = MaskedDecoder(model, greedy)(classes, torch.zeros(4, 4, toy.NUM_CODES, 2, dtype=torch.float64))
    assert torch.equal(plain_masked_sample(model, classes, greedy), expected)
    torch.manual_seed(0)
    noisy, many = MaskedSettings(3, 2.0, "linear", temperature=3.0), torch.zeros(1500, dtype=torch.int64)
    ours = MaskedDecoder(model, noisy)(many, image_noise(0, range(1500), (3, toy.NUM_CODES, 2)))
    for place in range(toy.NUM_CODES):
        one, two = (
            torch.bincount(codes[:, place], minlength=toy.CODEBOOK_SIZE) / 1500
            for codes in (ours, plain_masked_sample(model, many, noisy))
        )
        assert (one - two).abs().max() < 0.07
