"""Every script answers bad input with one line and exit code 2."""

import pytest

from tests.support import launch, toy
from tests.support.commands import pretokenize, sample_imagenet
from tests.support.paths import ROOT
from tests.support.toy.titok import titok, write_titok_config
from utils.weights import export_weights


def test_tokenizers_that_do_not_fit(refusal, images, tmp_path):
    """Gaussian latents for a token cache; a two-stage configuration with single-stage weights."""
    gaussian, two_stage = (write_titok_config(tmp_path / f"{v}.yaml", v) for v in ("vae", "stage2"))
    weights = export_weights(tmp_path / "weights", titok("single_stage").state_dict())[1]
    line = refusal(*pretokenize(images, gaussian, weights, tmp_path / "cache", "--img_size", 32))
    assert "this 'titok' tokenizer makes continuous latents, not codes; token caches" in line
    line = refusal(*pretokenize(images, two_stage, weights, tmp_path / "cache", "--img_size", 32))
    assert "it holds a single-stage TiTok" in line
    assert "the configuration asks for a two-stage TiTok with its pixel decoder" in line


def test_data_folders(refusal, tmp_path):
    script, config = "train_tokenizer/train_tokenizer.py", toy.write_tokenizer_config(tmp_path / "1.yaml", 1)
    common = (f"config={config}", f"experiment.output_dir={tmp_path / 'out'}")
    assert "image folder not found" in refusal(script, *common, f"dataset.params.data_path={tmp_path / 'no'}")
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "val").mkdir()
    assert "holds no images" in refusal(script, *common, f"dataset.params.data_path={tmp_path / 'data'}")


def test_missing_weights_say_where_they_go(refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the repository's weights/ may hold them
    tokenizer_config = ("--tokenizer_config", ROOT / "configs/tokenizer_stage2.yaml")
    message = refusal(
        ROOT / "pretokenization.py", "--data_path", toy.write_images(tmp_path / "images"), *tokenizer_config
    )
    assert "weights not found: weights/AliTok.pth" in message
    config = f"config={toy.write_ar_config(tmp_path / 'ar.yaml')}"
    out = f"experiment.output_dir={tmp_path / 'out'}"
    assert "experiment.generator_checkpoint is not set" in refusal(ROOT / "sample_imagenet.py", config, out)
    message = refusal(ROOT / "sample_imagenet.py", config, out, "experiment.generator_checkpoint=weights/alitok_b.bin")
    assert "weights not found" in message


def test_size_and_cache_mismatches(refusal, tmp_path):
    weights = export_weights(tmp_path / "w", toy.tokenizer(width=16).state_dict())[1]
    images = toy.write_images(tmp_path / "images")
    config = toy.write_tokenizer_config(tmp_path / "2.yaml", 2)
    arguments = ("--data_path", images, "--tokenizer_config", config, "--tokenizer_checkpoint", weights)
    assert "shapes differ: latent_tokens is (7, 16) in the file" in refusal("pretokenization.py", *arguments)
    ar = f"config={toy.write_ar_config(tmp_path / 'ar.yaml')}"
    out = f"experiment.output_dir={tmp_path / 'out'}"
    message = refusal("train_ar.py", ar, out, f"dataset.params.pretokenization={tmp_path / 'none'}")
    assert "token cache not found" in message
    message = refusal("train_ar.py", ar, out, "model.generator.image_seq_len=21")
    assert "image_seq_len is 21, the tokenizer has 7 codes" in message


def test_class_ids_out_of_range(refusal, tmp_path):
    generator = export_weights(tmp_path / "g", toy.generator().state_dict())[1]
    tokenizer = export_weights(tmp_path / "w", toy.tokenizer().state_dict())[1]
    config = toy.write_ar_config(tmp_path / "ar.yaml")
    message = refusal(*sample_imagenet(config, generator, tokenizer, tmp_path / "out", "sampling.class_ids=[1,4]"))
    assert message.endswith("sampling.class_ids: 4 is out of range, the classes are 0 to 3")


def test_undecodable_files_end_pretokenization(refusal, tmp_path):
    images = toy.write_images(tmp_path / "images", per_class=2)
    (images / "train" / "class_1" / "broken.JPEG").write_bytes(b"no image")
    config = toy.write_tokenizer_config(tmp_path / "2.yaml", 2)
    weights = export_weights(tmp_path / "w", toy.tokenizer().state_dict())[1]
    message = refusal(*pretokenize(images, config, weights, tmp_path / "cache"))
    assert "1 files cannot be decoded" in message
    assert "broken.JPEG" in message
    assert not (tmp_path / "cache" / "metadata.json").exists()


def test_output_to_a_file_has_no_bars(program, sampling):
    code, out, err = program(*sampling())
    assert code == 0, err
    assert not set("\r\x1b█") & set(out + err)
    assert "sampling: 10 of 10 images (100%) in 00:" in err


def test_counts_below_the_minimum(refusal):
    message = refusal("pretokenization.py", "--max_images", "0")
    assert message.endswith("error: argument --max_images: is 0; it must be at least 1")


def test_help_without_none(program):
    _, out, _ = program("evaluation/evaluate_tokenizer.py", "--help")
    assert "(default: val)" in out
    assert "None" not in out


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train_ar.py", "train_tokenizer/train_tokenizer.py", "sample_imagenet.py"])
def test_help_lists_the_keys(script):
    result = launch.run(script, "--help")
    assert "output_dir" in result.stdout
    assert "encoder" in result.stdout
