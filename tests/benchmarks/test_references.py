"""What the benchmarks compare with computes the same."""

from functools import partial

import torch

from benchmarks.reference_generator import PlainGenerator, PlainStep
from benchmarks.reference_sampler import plain_logits, plain_sample
from modeling.alitok.generator import AliTokGenerator, GeneratorConfig
from train_generator.trainer import parameter_groups


def config() -> GeneratorConfig:
    """73 codes: 9 of the prefix, 8 x 8 of the image; no dropout."""
    return GeneratorConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_seq_len=73,
        condition_num_classes=4,
        codebook_size=128,
        dropout=0.0,
        attn_drop=0.0,
        tok_dropout=0.0,
        class_label_dropout=0.0,
    )


def test_the_plain_training_step_computes_the_same():
    torch.manual_seed(0)
    ours = AliTokGenerator(config()).train()
    plain = PlainGenerator(config())
    plain.load_state_dict(ours.state_dict())
    step = PlainStep(plain, partial(torch.autocast, "cpu", enabled=False))
    optimizer = torch.optim.AdamW(parameter_groups(ours, 0.03), lr=4e-4, betas=(0.9, 0.96), fused=True)
    for i in range(3):
        codes, class_ids = torch.randint(0, 128, (4, 73)), torch.tensor([0, 1, 2, 3])
        loss, _ = ours.loss(codes, class_ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert abs(step(codes, class_ids) - float(loss.detach())) < 1e-4, i


def test_the_plain_sampler_has_the_same_distributions():
    torch.manual_seed(0)
    model = AliTokGenerator(config()).eval()
    torch.nn.init.normal_(model.output.weight, std=0.3)
    class_ids, codes = torch.tensor([0, 3]), torch.randint(0, 128, (2, 73))
    state, cache = model.start(class_ids), [None, None]
    mask = torch.full((74, 74), float("-inf")).triu(1)
    for t in range(73):
        expected = model.step(state, codes[:, t - 1] if t else None)
        torch.testing.assert_close(plain_logits(model, codes[:, :t], class_ids, cache, mask), expected)
    assert plain_sample(model, class_ids, 4.0, 1.0, 5).shape == (2, 5)
