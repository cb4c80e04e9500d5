"""TiTok's trainings at toy size: both stages, the single stage, Gaussian latents."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from dataset.image_dataset import ImageBatch
from modeling.titok.proxy import build_proxy
from tests.support import toy
from tests.support.launch import run, run_here
from tests.support.resuming import assert_equal_checkpoints, interrupted
from tests.support.toy.titok import titok, titok_config, write_titok_config
from train_tokenizer.config import TokenizerConfig
from train_tokenizer.trainer import TokenizerTrainer
from training.checkpoint_files import list_checkpoints
from training.logging import read_log
from utils.config import load_config
from utils.errors import UserError
from utils.weights import read_state_dict


def trainer(folder: Path, name: str, variant: str, *overrides: str, **settings) -> TokenizerTrainer:
    """Train in folder/name on the images folder/images; settings: for `write_titok_config`."""
    config = write_titok_config(folder / f"{name}.yaml", variant, **settings)
    data = f"dataset.params.data_path={folder / 'images'}"
    arguments = [f"config={config}", data, f"experiment.output_dir={folder / name}", *overrides]
    return TokenizerTrainer(load_config(TokenizerConfig, "", arguments))


def batch() -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    return ImageBatch(torch.rand(4, 3, 32, 32, generator=generator), torch.arange(4), [])


def weights(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.slow
def test_a_single_stage_resumes_bit_for_bit_inside_the_gan_phase(tmp_path, images):
    """With clustering, LeCam and the average's warm-up."""
    whole = assert_resumes(tmp_path, 6, "single_stage", "experiment.save_every=6")
    last = list_checkpoints(whole.output_dir)[-1]
    assert {"lecam.safetensors", "discriminator.safetensors", "ema.safetensors"} <= {p.name for p in last.iterdir()}
    assert whole.state.ema_updates == 8
    assert read_state_dict(last / "lecam.safetensors")["ema_fake_logits_mean"] != 0
    rows = read_log(whole.output_dir)
    assert [row["step"] for row in rows if "lecam" in row] == [5, 6, 7, 8]
    assert "val_codebook_usage" in rows[-1]


@pytest.mark.slow
def test_stage_1_resumes_bit_for_bit(tmp_path, images, earlier):
    """The codes of MaskGIT-VQ, its targets, are computed again and are in no checkpoint."""
    whole = assert_resumes(tmp_path, 2, "stage1", "experiment.save_every=2", steps=(4, 0), **earlier)
    rows = [row["proxy"] for row in read_log(whole.output_dir) if "proxy" in row]
    assert len(set(rows)) == 4
    names = read_state_dict(list_checkpoints(whole.output_dir)[-1] / "model.safetensors")
    assert not any("proxy" in name for name in names)


@pytest.mark.slow
def test_stage_2_resumes_bit_for_bit_inside_the_gan_phase(tmp_path, images, earlier, stage1_weights):
    """Encoder and codebook are frozen; the pixel decoder comes from the checkpoint, no longer from MaskGIT-VQ."""
    start = (stage1_weights, "experiment.save_every=2")
    whole = assert_resumes(tmp_path, 2, "stage2", *start, steps=(1, 2), **earlier)
    state, one = whole.tokenizer.state_dict(), titok("stage1").state_dict()
    assert torch.equal(state["encoder.conv_out.weight"], one["encoder.conv_out.weight"])
    assert not torch.equal(state["decoder.ffn.2.weight"], one["decoder.ffn.2.weight"])
    assert [row["step"] for row in read_log(whole.output_dir) if "lecam" in row] == [2, 3]


def assert_resumes(folder: Path, stop_at: int, variant: str, *overrides: str, **settings) -> TokenizerTrainer:
    """Train as a whole and interrupted after `stop_at` steps: the same checkpoints, bit for bit."""

    def build(name: str, *more: str) -> TokenizerTrainer:
        return trainer(folder, name, variant, *overrides, *more, **settings)

    whole = build("whole")
    whole.run()
    parts = interrupted(build, stop_at)
    assert_equal_checkpoints(*(list_checkpoints(t.output_dir)[-1] for t in (whole, parts)))
    return whole


@pytest.fixture
def earlier(tmp_path) -> dict[str, str]:
    """The setting that names MaskGIT-VQ's weights, which give stage 1 its targets and stage 2 its pixel decoder."""
    torch.save(toy.maskgit_vq().state_dict(), tmp_path / "maskgit_vq.bin")
    return {"pretrained_tokenizer_weight": str(tmp_path / "maskgit_vq.bin")}


@pytest.fixture
def stage1_weights(tmp_path) -> str:
    """The override that starts stage 2."""
    torch.save(titok("stage1").state_dict(), tmp_path / "stage1.bin")
    return f"experiment.init_from={tmp_path / 'stage1.bin'}"


def test_each_step_updates_both_networks_on_the_same_images(tmp_path, images):
    """The discriminator sees the reconstruction of before the tokenizer's update."""
    made = trainer(tmp_path, "run", "single_stage")
    made.state.step = 5  # in the GAN phase; the first discriminator step has rate 0
    adversary, seen = made.adversary, []
    handle = adversary.discriminator.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    expected = made.tokenizer.train()(batch().images).reconstruction.detach()
    before = weights(made.tokenizer), weights(adversary.discriminator)
    logged = made.train_step([batch()])
    handle.remove()
    assert torch.equal(seen[0], expected)
    assert torch.equal(seen[1], torch.cat([batch().images, expected]))
    assert not torch.equal(before[0]["decoder.conv_out.weight"], made.tokenizer.decoder.conv_out.weight)
    assert not torch.equal(before[1]["block_in.0.weight"], adversary.discriminator.block_in[0].weight)
    assert {"adversarial", "discriminator", "lecam", "quantizer", "reconstruction"} <= logged.keys()
    real, lecam = float(logged["real_logits"]), adversary.lecam
    assert float(lecam.ema_real_logits_mean) == pytest.approx(0.1 * real, rel=1e-5)


@pytest.mark.parametrize("full_precision", [True, False])
def test_the_discriminator_computes_in_float32_on_request(tmp_path, images, fresh_accelerate, full_precision):
    """In both of its uses under bf16: the tokenizer's step and its own."""
    flags = "training.mixed_precision=bf16", f"losses.full_precision={full_precision}"
    made = trainer(tmp_path, "run", "single_stage", *flags)
    made.state.step, dtypes = 5, []
    layer = made.adversary.discriminator.to_logits[0]
    layer.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    made.train_step([batch()])
    assert dtypes == [torch.float32 if full_precision else torch.bfloat16] * 2


def test_a_step_that_is_skipped_leaves_the_discriminator_alone(tmp_path, images):
    made = trainer(tmp_path, "run", "single_stage")
    made.state.step = 5
    before = weights(made.adversary.discriminator)
    bad = batch()._replace(images=torch.full((4, 3, 32, 32), float("nan")))
    made.train_step([bad])
    assert (made.state.skipped_steps, made.state.ema_updates, made.guard.bad_in_a_row) == (1, 0, 1)
    after = made.adversary.discriminator.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert made.adversary.lecam.ema_real_logits_mean == 0


def test_weight_decay_spares_the_published_names(tmp_path, images):
    made = trainer(tmp_path, "run", "single_stage")
    names = {id(parameter): name for name, parameter in made.tokenizer.named_parameters()}
    decayed, others = made.optimizer.param_groups
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in (decayed, others))
    assert {"encoder.transformer.0.attn.in_proj_weight", "decoder.ffn.0.weight", "encoder.conv_out.weight"} <= decayed
    expected = {"latent_tokens", "decoder.mask_token", "encoder.patch_embed.weight", "decoder.decoder_embed.weight"}
    assert expected | {"quantize.embedding.weight", "encoder.class_embedding", "decoder.conv_out.bias"} <= spared
    assert [group["weight_decay"] for group in made.optimizer.param_groups] == [1e-2, 0]
    convolutions, rest = made.adversary.optimizer.param_groups
    assert {p.ndim for p in convolutions["params"]} == {4}
    assert {p.ndim for p in rest["params"]} == {1}


@pytest.mark.slow
def test_two_stages(tmp_path, images, monkeypatch):
    """Stage 1 by the published name of the script; stage 2 starts from it and from MaskGIT-VQ."""
    proxy = toy.maskgit_vq().state_dict()
    torch.save(proxy, tmp_path / "maskgit_vq.bin")
    settings = {"pretrained_tokenizer_weight": str(tmp_path / "maskgit_vq.bin")}
    config = write_titok_config(tmp_path / "stage1.yaml", "stage1", steps=(40, 0), **settings)
    data = f"dataset.params.data_path={tmp_path / 'images'}"
    output = f"experiment.output_dir={tmp_path / 'stage1'}"
    run_here(monkeypatch, "scripts/train_titok.py", f"config={config}", data, output)
    rows = [row for row in read_log(tmp_path / "stage1") if "proxy" in row]
    assert rows[-1]["proxy"] < rows[0]["proxy"] - 0.3
    assert "val_psnr" in read_log(tmp_path / "stage1")[-1]
    one = read_state_dict(tmp_path / "stage1" / "pytorch_model.bin")
    assert not any("proxy" in key or "embed_prob" in key or key.startswith("pixel_") for key in one)

    start = f"experiment.init_weight={tmp_path / 'stage1' / 'pytorch_model.bin'}"
    made = trainer(tmp_path, "stage2", "stage2", start, **settings)
    state = made.tokenizer.state_dict()
    assert torch.equal(state["pixel_quantize.embedding.weight"], proxy["quantize.embedding.weight"])
    assert torch.equal(state["pixel_decoder.conv_out.weight"], proxy["decoder.conv_out.weight"])
    assert torch.equal(state["decoder.ffn.2.weight"], one["decoder.ffn.2.weight"])
    before = weights(made.tokenizer)
    made.run()
    two = read_state_dict(tmp_path / "stage2" / "pytorch_model.bin")
    frozen = ("encoder.", "quantize.", "latent_tokens")
    assert all(torch.equal(value, one[key]) for key, value in two.items() if key.startswith(frozen))
    still = [key for key, value in two.items() if not key.startswith(frozen) and torch.equal(value, before[key])]
    assert still == []
    assert not any("quantizer" in row for row in read_log(tmp_path / "stage2"))
    with pytest.raises(UserError, match=r"has no pixel decoder: set model\.vq_model\.pretrained_tokenizer_weight"):
        trainer(tmp_path, "without", "stage2", start)


def test_stage_2_starts_from_wrapped_weights(tmp_path, images):
    """Names with "module." before them, of stage 1 and of MaskGIT-VQ; with a pixel decoder no other file is needed."""

    def wrapped(name: str, state: dict[str, torch.Tensor]) -> str:
        torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / name)
        return str(tmp_path / name)

    proxy, one = toy.maskgit_vq().state_dict(), titok("stage1").state_dict()
    settings = {"pretrained_tokenizer_weight": wrapped("maskgit_vq.bin", proxy)}
    start = f"experiment.init_from={wrapped('stage1.bin', one)}"
    two = trainer(tmp_path, "stage2", "stage2", start, **settings).tokenizer.state_dict()
    assert torch.equal(two["pixel_quantize.embedding.weight"], proxy["quantize.embedding.weight"])
    assert torch.equal(two["decoder.ffn.2.weight"], one["decoder.ffn.2.weight"])
    again = f"experiment.init_from={wrapped('stage2.bin', two)}"
    state = trainer(tmp_path, "again", "stage2", again).tokenizer.state_dict()
    assert torch.equal(state["pixel_decoder.conv_out.weight"], proxy["decoder.conv_out.weight"])


def test_paths_of_earlier_weights_are_beside_the_file(tmp_path):
    for name in ("stage1.bin", "proxy.bin"):
        (tmp_path / name).touch()
    config = write_titok_config(tmp_path / "config.yaml", "stage2", pretrained_tokenizer_weight="proxy.bin")
    given = yaml.safe_load(config.read_text())
    given["experiment"]["init_weight"] = "stage1.bin"
    config.write_text(yaml.safe_dump(given))
    read = load_config(TokenizerConfig, "", [f"config={config}", "dataset.params.data_path=d"])
    assert read.experiment.init_from == read.experiment.init_weight == str(tmp_path / "stage1.bin")
    assert read.model.vq_model.pretrained_tokenizer_weight == str(tmp_path / "proxy.bin")


def test_stage_1_without_proxy_codes_is_one_line(tmp_path, images):
    made = trainer(tmp_path, "run", "stage1", steps=(2, 0))
    with pytest.raises(UserError, match=r"pretrained_tokenizer_weight is not set: .*MaskGIT-VQ to train stage 1"):
        made.train_step([batch()])


def test_gaussian_latents_train_and_validate(tmp_path, images):
    made = trainer(tmp_path, "run", "vae", steps=(4, 0), kl_weight=0.5)
    with torch.no_grad():
        losses = made.tokenizer(batch().images).losses
        kl = made.tokenizer.posterior(batch().images).kl()
    assert losses["kl"].weight == 0.5
    torch.testing.assert_close(losses["kl"].value, kl.sum(1).mean())
    made.run()
    last = read_log(made.output_dir)[-1]
    assert "val_psnr" in last
    assert "val_codebook_usage" not in last


@pytest.mark.slow
def test_two_processes_follow_one_process(tmp_path, earlier, stage1_weights):
    """The single stage, stage 1 and stage 2 in float64: the same losses and weights."""
    toy.write_images(tmp_path / "images", noise=True)
    # Steps without and with the GAN, settings, overrides.
    trainings = {
        "single_stage": ((2, 3), {"codebook_size": 8, "init_std": 0.2}, ()),
        "stage1": ((3, 0), earlier, ()),
        "stage2": ((1, 1), earlier, (stage1_weights,)),
    }

    def follow(processes: int, *overrides: str) -> None:
        words: list[object] = []
        for variant, (steps, settings, start) in trainings.items():
            config = write_titok_config(tmp_path / f"{variant}.yaml", variant, steps=steps, **settings)
            output = tmp_path / f"{variant}_{processes}"
            words += ["--"] * bool(words) + [output, f"config={config}", f"experiment.output_dir={output}_unused"]
            words += [f"dataset.params.data_path={tmp_path / 'images'}", *start, *overrides]
        run("tests/support/follow_steps.py", *words, processes=processes)

    follow(1)
    follow(2, "training.per_gpu_batch_size=2")
    for variant, (steps, _, _) in trainings.items():
        folders = [tmp_path / f"{variant}_{processes}" for processes in (1, 2)]
        one, two = (json.loads((folder / "losses.json").read_text()) for folder in folders)
        assert len(one) == sum(steps) + steps[1]  # the tokenizer's, and the discriminator's while the GAN is on
        assert two == pytest.approx(one, rel=1e-10), variant
        expected, found = (read_state_dict(folder / "model.safetensors") for folder in folders)
        for key, value in found.items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-9)


def test_toy_settings_are_read_from_yaml(tmp_path):
    config = write_titok_config(tmp_path / "config.yaml", "stage2")
    overrides = ["dataset.params.data_path=d", "experiment.output_dir=o"]
    read = load_config(TokenizerConfig, "", [f"config={config}", *overrides]).model.vq_model
    assert build_proxy(read).config == build_proxy(titok_config("stage2")).config
    assert replace(read, proxy={}) == replace(titok_config("stage2"), proxy={})
