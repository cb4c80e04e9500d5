"""Weights load strictly by name; refusals say why."""

import pytest
import torch

from modeling.build import load_generator, load_tokenizer
from tests.support import toy
from utils.errors import UserError
from utils.weights import export_weights, read_state_dict


def without_statistics(model) -> dict:
    """What a training exports."""
    return {name: value for name, value in model.state_dict().items() if name not in model.optional_keys}


def load_as_generator(config, path):
    return load_generator(config, toy.tokenizer().layout, path)


@pytest.fixture
def files(tmp_path):
    """A tokenizer's weights in the published form and as safetensors."""
    return export_weights(tmp_path, without_statistics(toy.tokenizer()))


def test_both_formats_load_strictly(tmp_path, files):
    source = toy.tokenizer()
    for path in files:
        loaded = load_tokenizer(source.config, path)
        assert all(torch.equal(v, source.state_dict()[k]) for k, v in loaded.state_dict().items())
        assert not any(p.requires_grad for p in loaded.parameters())
        assert not loaded.training
    generator = toy.generator()
    for path in export_weights(tmp_path / "generator", generator.state_dict()):
        loaded = load_generator(generator.config, generator.layout, path)
        assert all(torch.equal(v, generator.state_dict()[k]) for k, v in loaded.state_dict().items())
        assert torch.equal(loaded.rope, generator.rope)


def test_usage_statistics_are_dropped_by_export_and_optional(tmp_path, files):
    assert "quantize.embed_prob" not in torch.load(files[0], weights_only=True)
    with_statistics = tmp_path / "with.pth"
    torch.save(toy.tokenizer().state_dict(), with_statistics)
    load_tokenizer(toy.tokenizer().config, with_statistics)


def test_stage2_takes_encoder_and_codebook_only(tmp_path):
    stage1 = toy.tokenizer(stage=1)
    torch.nn.init.normal_(stage1.quantize.embedding.weight)
    path = export_weights(tmp_path, without_statistics(stage1))[0]
    stage2 = toy.tokenizer(stage=2)
    decoder = {k: v.clone() for k, v in stage2.decoder.state_dict().items()}
    stage2.load_earlier_stage(read_state_dict(path), path)
    images = torch.rand(2, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    assert torch.equal(stage1.encode(images), stage2.encode(images))
    assert all(torch.equal(v, decoder[k]) for k, v in stage2.decoder.state_dict().items())


def test_wrong_files_are_refused_with_the_reason(tmp_path, files):
    def refused(path, match, model=None, load=load_tokenizer):
        with pytest.raises(UserError, match=match) as caught:
            load((model or toy.tokenizer()).config, path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "absent.pth", "weights not found")
    for path in files:
        cut = tmp_path / f"cut{path.suffix}"
        cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        refused(cut, "damaged|not a checkpoint")
    text = tmp_path / "text.bin"
    text.write_text("hello")
    refused(text, "not a checkpoint|damaged")
    odd = tmp_path / "odd.pth"
    torch.save({"model": {"a": 1}}, odd)
    refused(odd, "no state dict")
    refused(files[0], "missing: embeddings.*unexpected: latent_tokens", toy.generator(), load_as_generator)
    refused(files[0], r"shapes differ: latent_tokens is \(7, 32\) in the file, \(7, 64\)", toy.tokenizer(width=64))
    refused(files[0], "missing: decoder.ffn_aux.0.weight", toy.tokenizer(stage=1))


def test_pickled_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("pickled code was run",))

    path = tmp_path / "trap.pth"
    torch.save({"weight": Trap()}, path)
    with pytest.raises(UserError, match="not a checkpoint"):
        load_tokenizer(toy.tokenizer().config, path)
