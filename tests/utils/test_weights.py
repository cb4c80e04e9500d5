"""Weights load strictly by name; refusals say why."""

import argparse

import pytest
import torch
from safetensors.torch import save_file

from modeling.build import load_generator, load_tokenizer
from tests.support import place_cases, toy
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


def test_a_decoder_of_the_other_stage_is_refused_in_words(tmp_path):
    stage1, stage2 = toy.tokenizer(stage=1), toy.tokenizer(stage=2)
    with_head, without = "a stage-1 AliTok with a prefix head", "an AliTok without a prefix head"
    for own, other, there, wanted in ((stage1, stage2, with_head, without), (stage2, stage1, without, with_head)):
        path = export_weights(tmp_path, without_statistics(own))[1]
        match = rf"{path} does not match the configuration: it holds {there}.*, the configuration asks for {wanted}"
        with pytest.raises(UserError, match=match):
            load_tokenizer(other.config, path)


def test_pickled_code_is_not_run(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "trap.pth"

    class Trap:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"weight": Trap()}, path)
    with pytest.raises(UserError, match="no state dict"):
        load_tokenizer(toy.tokenizer().config, path)
    torch.save({"model": without_statistics(toy.tokenizer()), "args": Trap()}, path)
    load_tokenizer(toy.tokenizer().config, path)
    assert not marker.exists()


def test_weights_load_as_other_programs_wrap_them(tmp_path, capsys):
    source = toy.generator()
    folder = place_cases.wrapped_weights(tmp_path / "w", source.state_dict())
    said = {}
    for path in sorted(folder.iterdir()):
        loaded = load_generator(source.config, source.layout, path)
        assert all(torch.equal(v, source.state_dict()[k]) for k, v in loaded.state_dict().items()), path
        said[path.name] = capsys.readouterr().err
    assert "names without 'module._orig_mod.'" in said["both.pt"]
    assert "weights 'ema'" in said["nested.pt"]
    assert "model" in said["nested.pt"]
    assert "weights 'state_dict_ema'" in said["timm.pt"]
    assert "args" in said["namespace.pt"]


def test_wrapped_weights_are_still_strict(tmp_path):
    source, path = toy.generator(), tmp_path / "x.pt"

    def refused(content, match):
        torch.save(content, path)
        with pytest.raises(UserError, match=match):
            load_generator(source.config, source.layout, path)

    state = {f"module.{k}": v for k, v in source.state_dict().items()}
    refused(state | {"module.more": torch.zeros(1)}, "unexpected: more")
    refused(state | {"more": torch.zeros(1)}, "missing: .*unexpected: module.")
    refused({"a": state, "b": state}, r"several state dicts \(a, b\)")
    refused({"ema_0": state, "ema_1": state}, "several state dicts")
    refused({"epoch": 3, "args": argparse.Namespace()}, "no state dict")


def test_a_folder_stands_for_the_weights_in_it(tmp_path):
    source = toy.tokenizer()
    for name in ("model", "ema"):
        state = {k: v + (name == "ema") for k, v in without_statistics(source).items()}
        save_file(state, tmp_path / f"{name}.safetensors")
        loaded = load_tokenizer(source.config, tmp_path)
        assert torch.equal(loaded.latent_tokens, state["latent_tokens"])  # the average, once it is there
    (tmp_path / "run" / "checkpoints" / "step_00000004").mkdir(parents=True)
    with pytest.raises(UserError, match=r"run is a folder without weights .* newest checkpoint is .*step_00000004"):
        load_tokenizer(source.config, tmp_path / "run")
