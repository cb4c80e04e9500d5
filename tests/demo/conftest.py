from pathlib import Path

import pytest
import torch

from dataset.class_names import keep_class_names
from demo.models import DemoModel, load_models
from modeling.alitok.generator import AliTokGenerator, GeneratorConfig
from modeling.alitok.settings import AliTokConfig, DecoderConfig, TransformerConfig
from modeling.alitok.tokenizer import AliTok
from sampling.pretrained_folder import save_pretrained
from tests.support import toy
from tests.support.toy.maskgit import masked_generator

CLASSES = ("00-cat", "01-dog", "02-mouse", "03-owl")


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """An autoregressive and a masked generator of one tokenizer's codes: 9 prefix codes and a grid of 8 x 8."""
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 4, "codebook_size": toy.CODEBOOK_SIZE, "token_size": 8, "init_std": 0.3}
    decoder = DecoderConfig(32, 2, 2, num_learned_tokens=4)
    tokenizer = AliTok(AliTokConfig(**sizes, encoder=TransformerConfig(32, 2, 2), decoder=decoder)).eval()
    config = GeneratorConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        condition_num_classes=toy.NUM_CLASSES,
        guidance_scale=2.0,
    )
    generator = AliTokGenerator(config, tokenizer.layout).eval()
    torch.nn.init.normal_(generator.output.weight, std=0.3)
    masked = masked_generator(layout=tokenizer.layout, num_steps=4)
    parent = tmp_path_factory.mktemp("demo")
    for name, model in (("ar", generator), ("masked", masked)):
        save_pretrained(parent / name, tokenizer, model)
        keep_class_names(parent / name, CLASSES)
    return parent / "ar", parent / "masked"


@pytest.fixture(scope="session")
def models(folders) -> list[DemoModel]:
    return load_models([str(folder) for folder in folders], device="cpu", batch_size=8)
