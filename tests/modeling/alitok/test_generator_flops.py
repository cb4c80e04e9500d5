"""Operations of the generator are counted correctly."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.reference_generator import PlainGenerator
from modeling.alitok.generator import GeneratorConfig
from modeling.interfaces import CodeLayout


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


def test_operations_are_counted():
    """torch's counter counts the whole score matrix of plain attention; only the causal half is needed."""
    generator = PlainGenerator(config(), CodeLayout(128, 73, 9, (8, 8))).train()
    codes, class_ids = torch.randint(0, 128, (1, 73)), torch.tensor([0])
    with FlopCounterMode(display=False) as counter:
        loss = generator.loss(codes, class_ids).value
    full_attention = 2 * 2 * 2 * 73 * 73 * 64  # two products, two layers
    causal = 2 * 2 * 2 * 64 * 73 * 74 // 2
    assert generator.forward_flops() == counter.get_total_flops() - full_attention + causal
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    # Twice the forward, less the gradient of the first layer's input, which nothing needs.
    assert abs(counter.get_total_flops() / 2 / (generator.forward_flops() - causal + full_attention) - 1) < 0.01
