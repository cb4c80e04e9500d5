"""The Python interface: load from a folder, a file or the hub, generate, stream."""

import pytest
import torch

from sampling.pipeline import Pipeline
from tests.support import toy
from utils.errors import UserError
from utils.weights import export_weights


def test_codes_do_not_depend_on_the_batch(pretrained):
    pipelines = [Pipeline.from_pretrained(pretrained / "hub", batch_size=n) for n in (5, 16)]
    classes = [i % toy.NUM_CLASSES for i in range(40)]
    codes = []
    for pipeline in pipelines:
        n = pipeline.batch_size
        parts = [pipeline.generate_codes(classes[s : s + n], range(40)[s : s + n]) for s in range(0, 40, n)]
        codes.append(torch.cat(parts))
    assert torch.equal(*codes)
    assert torch.equal(codes[0][7:9], pipelines[1].generate_codes(classes[7:9], [7, 8]))
    assert not torch.equal(codes[0][:5], pipelines[0].generate_codes(classes[:5], seed=1))


def test_pipeline_from_folder_file_and_hub(pretrained, tmp_path, monkeypatch):
    whole = Pipeline.from_pretrained(pretrained / "hub", seed=3)
    images = whole.generate([0, 1, 2])
    assert images.shape == (3, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
    assert 0 <= images.min() <= images.max() <= 1
    file = pretrained / "generator" / "pytorch_model.bin"
    tokenizer = pretrained / "tokenizer" / "model.safetensors"
    parts = Pipeline.from_pretrained(file, tokenizer=tokenizer, config=pretrained / "ar.yaml", seed=3)
    same = parts.with_settings(guidance_scale=16.0, guidance_scale_pow=1.8).generate([0, 1, 2])
    torch.testing.assert_close(same, images)
    codes = whole.tokenizer.encode(images)
    assert whole.tokenizer.decode(codes).shape == images.shape
    with pytest.raises(UserError, match="name their configuration"):
        Pipeline.from_pretrained(file)
    with pytest.raises(UserError, match="neither a file, nor a folder, nor a hub id"):
        Pipeline.from_pretrained(tmp_path / "nowhere" / "at" / "all")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="no-such/repository is neither a folder nor a hub repository"):
        Pipeline.from_pretrained("no-such/repository")
    with pytest.raises(UserError, match="sampling settings: top_k is 0"):
        Pipeline.from_pretrained(pretrained / "hub", settings={"top_k": 0})
    with pytest.raises(UserError, match="class 4 is out of range, the classes are 0 to 3"):
        whole.generate([4])
    with pytest.raises(UserError, match="choose fp32 or bf16"):
        Pipeline.from_pretrained(pretrained / "hub", precision="fp8")


def test_a_training_folder_is_enough(pretrained, tmp_path):
    """config.yaml and model.safetensors, with the tokenizer that the configuration names."""
    config = (pretrained / "ar.yaml").read_text()
    tokenizer = pretrained / "tokenizer" / "model.safetensors"
    config = config.replace("experiment:", f"experiment:\n  tokenizer_checkpoint: {tokenizer}", 1)
    (tmp_path / "config.yaml").write_text(config)
    export_weights(tmp_path, toy.generator().state_dict())
    assert len(Pipeline.from_pretrained(tmp_path).generate([0, 1])) == 2


def test_stream_ends_with_the_image(pretrained):
    pipeline = Pipeline.from_pretrained(pretrained / "hub")
    images = list(pipeline.stream([0, 3], every=3))
    assert len(images) == 3  # after 3, 6 and all 7 codes
    torch.testing.assert_close(images[-1], pipeline.generate([0, 3]))
    assert not torch.equal(images[0], images[-1])
