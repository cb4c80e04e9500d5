"""Sampling: the same images everywhere, ways of drawing, fast steps that compute the same, the Python API."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset.imagenet_names import class_id
from modeling.build import cast_parameters
from sampling.autoregressive import CodeSampler, SamplingSettings, draw, image_noise, keep_likely, sample_codes
from sampling.guidance import guidance_scale
from sampling.packed_linear import PackedLinear
from sampling.pipeline import AliTokPipeline, save_pretrained
from sampling.shards import SampleShards
from tests.conftest import ROOT
from tests.support import toy
from tests.support.launch import kill, run, start
from utils.cpu import can_pack
from utils.errors import UserError
from utils.weights import export_weights

NUM_SAMPLES = 100  # four shards
SETTINGS = SamplingSettings(4.0, 1.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder as `save_pretrained` writes it, and an AR configuration."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = toy.tokenizer(init_std=0.3)  # enough for images that differ
    save_pretrained(folder / "hub", tokenizer, toy.generator())
    export_weights(folder / "generator", toy.generator().state_dict())
    export_weights(folder / "tokenizer", tokenizer.state_dict())
    toy.write_ar_config(folder / "ar.yaml")
    return folder


def command(models: Path, output: Path, *overrides: object) -> list[object]:
    return [
        "sample_imagenet.py",
        f"config={models / 'ar.yaml'}",
        f"experiment.output_dir={output}",
        f"experiment.generator_checkpoint={models / 'generator' / 'model.safetensors'}",
        f"experiment.tokenizer_checkpoint={models / 'tokenizer' / 'model.safetensors'}",
        f"sampling.num_samples={NUM_SAMPLES}",
        *overrides,
    ]


def pixels(output: Path) -> tuple[np.ndarray, list[int]]:
    with np.load(f"{output}.npz", allow_pickle=False) as arrays:
        return arrays["arr_0"].astype(int), arrays["arr_1"].tolist()


# -- the same images everywhere ---------------------------------------------------------------------


def test_processes_batches_and_interruptions_change_no_image(models, tmp_path):
    run(*command(models, tmp_path / "one", "sampling.batch_size=5"))
    images, labels = pixels(tmp_path / "one")
    assert labels == [i % toy.NUM_CLASSES for i in range(NUM_SAMPLES)]
    assert len(np.unique(images.reshape(NUM_SAMPLES, -1), axis=0)) > NUM_SAMPLES // 2
    run(*command(models, tmp_path / "three", "sampling.batch_size=16"), processes=3)
    assert np.abs(pixels(tmp_path / "three")[0] - images).max() <= 1

    process = start(*command(models, tmp_path / "killed", "sampling.batch_size=1"))
    shards = tmp_path / "killed" / "shards"
    deadline = time.monotonic() + 120
    while not list(shards.glob("*.npy")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    kill(process)
    kept = {p: p.stat().st_mtime_ns for p in shards.glob("*.npy")}
    assert 0 < len(kept) < 4, "not killed between shards"
    # What was finished is taken over: a pixel changed in it stays changed.
    first = sorted(kept)[0]
    marked = np.load(first)
    marked[0, 0, 0] ^= 255
    np.save(first, marked)
    run(*command(models, tmp_path / "killed", "sampling.batch_size=16"), processes=2)
    resumed = pixels(tmp_path / "killed")[0]
    changed = np.abs(resumed - images).reshape(NUM_SAMPLES, -1).max(1)
    assert (changed > 1).sum() == 1 and not shards.exists()


def test_codes_do_not_depend_on_the_batch(models):
    pipelines = [AliTokPipeline.from_pretrained(models / "hub", batch_size=n) for n in (5, 16)]
    classes = [i % toy.NUM_CLASSES for i in range(40)]
    codes = []
    for pipeline in pipelines:
        n = pipeline.batch_size
        parts = [pipeline.generate_codes(classes[s : s + n], range(40)[s : s + n]) for s in range(0, 40, n)]
        codes.append(torch.cat(parts))
    assert torch.equal(*codes)
    assert torch.equal(codes[0][7:9], pipelines[1].generate_codes(classes[7:9], [7, 8]))
    assert not torch.equal(codes[0][:5], pipelines[0].generate_codes(classes[:5], seed=1))


def test_filled_up_batches_draw_the_same():
    generator, classes, noise = toy.generator(), torch.tensor([0, 1, 2]), image_noise(0, range(3), toy.NUM_CODES)
    sampler = CodeSampler(generator, SETTINGS, fixed_rows=5)
    assert torch.equal(sampler(classes, noise), sample_codes(generator, classes, noise, SETTINGS))
    with pytest.raises(ValueError, match="room for 5"):
        sampler(torch.zeros(6, dtype=torch.long), image_noise(0, range(6), toy.NUM_CODES))


# -- the disk -----------------------------------------------------------------------------------------

ASSEMBLE = """
import sys
import numpy as np
from tests.support.launch import peak_memory
from sampling.shards import SampleShards
shards = SampleShards(sys.argv[1], 6000, 128, {})
shards.begin()
for shard in shards.missing():
    shards.write(shard, np.full((len(shards.images_of(shard)), 128, 128, 3), shard, np.uint8))
before = peak_memory()
shards.assemble(np.zeros(6000))
print(peak_memory() - before)
"""


def test_memory_stays_bounded_while_the_npz_is_written(tmp_path):
    """295 MB of images in shards of 25 MB."""
    result = subprocess.run(
        [sys.executable, "-c", ASSEMBLE, tmp_path / "out"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 80 << 20
    assert (tmp_path / "out.npz").stat().st_size > 6000 * 3 * 128**2


def test_a_full_disk_is_noticed_before_the_start(tmp_path):
    with pytest.raises(UserError, match=r"GB needed, .* GB free"):
        SampleShards(tmp_path / "out", 1000, 1_000_000, {}).begin()


def test_a_failed_write_ends_the_run(models, tmp_path):
    """In the thread that writes; the limit on file sizes stands for a full disk."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    result = subprocess.run(
        [sys.executable, *map(str, command(models, tmp_path / "out"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=200,
    )
    assert result.returncode == 2 and "error: " in result.stderr and "Traceback" not in result.stderr
    assert "could not be written" in result.stderr and "free space" in result.stderr
    assert not list(tmp_path.rglob("*.npz")) and not list(tmp_path.rglob("*.npy"))


def test_a_damaged_shard_is_named(tmp_path):
    shards = SampleShards(tmp_path / "out", 40, 8, {})
    shards.begin()
    for shard in shards.missing():
        shards.write(shard, np.zeros((len(shards.images_of(shard)), 8, 8, 3), np.uint8))
    shards.path(1).write_bytes(shards.path(1).read_bytes()[:100])
    with pytest.raises(UserError, match=r"00001.npy is damaged: remove it"):
        shards.assemble(np.zeros(40))


# -- ways of drawing ----------------------------------------------------------------------------------


def test_guidance_schedules():
    for schedule in ("power_cosine", "linear"):
        scales = [guidance_scale(t, 100, 5.0, 1.0, schedule) for t in range(101)]
        assert scales[0] == 1.0 and scales[-1] == pytest.approx(5.0) and scales[50] == pytest.approx(3.0)
        assert scales == sorted(scales)
        assert guidance_scale(50, 100, 5.0, 2.0, schedule) < scales[50]
    assert {guidance_scale(t, 100, 5.0, 1.0, "constant") for t in range(100)} == {5.0}


def test_no_guidance_work_without_guidance():
    assert SamplingSettings(0.0).scales(7) is None and SamplingSettings(1.0).scales(7) is None
    assert SamplingSettings(2.0).scales(7)
    rows = []
    generator = toy.generator()
    generator.start, begin = (lambda class_ids: rows.append(len(class_ids)) or begin(class_ids)), generator.start
    for scale in (1.0, 4.0):
        sample_codes(generator, torch.tensor([0, 1]), image_noise(0, [0, 1], 7), SamplingSettings(scale))
    assert rows == [2, 4]


def test_top_k_and_top_p_keep_the_most_likely():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.05, 0.05, 0.0, 0.9]]).log()
    kept = lambda *cut: keep_likely(logits, *cut).isfinite().tolist()  # noqa: E731
    assert kept(None, None) == kept(4, 1.0) == logits.isfinite().tolist()
    assert kept(1, None) == [[False, True, False, False], [False, False, False, True]]
    assert kept(2, None)[0] == [False, True, False, True]
    assert kept(None, 0.65)[0] == [False, True, False, True]  # 0.4 + 0.3 reach it
    assert kept(None, 0.75)[0] == [False, True, True, True]
    assert kept(None, 0.01) == kept(1, None)
    assert kept(3, 0.5)[1] == [False, False, False, True]
    uniform = image_noise(0, [0], 1000)[0]
    drawn = draw(keep_likely(logits[:1], 2, None).expand(1000, -1), uniform)
    assert set(drawn.tolist()) == {1, 3}
    assert (drawn == 1).float().mean() == pytest.approx(4 / 7, abs=0.05)


def test_cuts_and_temperature_reach_the_draws():
    generator, classes, noise = toy.generator(), torch.arange(4), image_noise(0, range(4), toy.NUM_CODES)
    greedy = sample_codes(generator, classes, noise, SamplingSettings(4.0, temperature=0))
    assert not torch.equal(greedy, sample_codes(generator, classes, noise, SETTINGS))
    for same in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-6}):
        assert torch.equal(greedy, sample_codes(generator, classes, noise, SamplingSettings(4.0, **same)))


@pytest.mark.parametrize(
    "wrong", [{"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"temperature": -1.0}, {"guidance_schedule": "cosine"}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingSettings(**wrong)


# -- fast steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_packed_linear_is_linear(dtype, tolerance):
    if not can_pack(dtype):
        pytest.skip(f"no oneDNN for {dtype} here")
    torch.manual_seed(0)
    linear = torch.nn.Linear(48, 80).to(dtype)
    for rows in (1, 5, 16):
        x = torch.randn(rows, 1, 48, dtype=dtype)
        torch.testing.assert_close(PackedLinear(linear, 5)(x), linear(x), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("compile", [False, True])
def test_the_optimized_step_computes_the_same(compile):
    plain, fast = toy.generator(), toy.generator()
    fast.requires_grad_(False).optimize_for_sampling(6, compile)
    class_ids, codes = torch.tensor([0, 1, 2, 3, 4, 4]), torch.randint(0, toy.CODEBOOK_SIZE, (6, toy.NUM_CODES))
    states = [model.start(class_ids) for model in (plain, fast)]
    for t in range(toy.NUM_CODES):
        fed = codes[:, t - 1] if t else None
        torch.testing.assert_close(plain.step(states[0], fed), fast.step(states[1], fed), atol=1e-5, rtol=1e-4)


def test_bf16_weights_and_cache():
    exact, rounded = toy.generator(), toy.generator()
    cast_parameters(rounded, torch.bfloat16)
    classes = torch.arange(4)
    states = [model.start(classes) for model in (exact, rounded)]
    assert states[1].cache.keys.dtype == torch.bfloat16 and rounded.rope.dtype == torch.float32
    logits = [model.step(state, None) for model, state in zip((exact, rounded), states, strict=True)]
    torch.testing.assert_close(*logits, atol=0.05, rtol=0.05)


# -- the Python interface -----------------------------------------------------------------------------


def test_pipeline_from_folder_file_and_hub(models, tmp_path, monkeypatch):
    whole = AliTokPipeline.from_pretrained(models / "hub", seed=3)
    images = whole.generate([0, 1, 2])
    assert images.shape == (3, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE) and 0 <= images.min() <= images.max() <= 1
    file = models / "generator" / "pytorch_model.bin"
    tokenizer = models / "tokenizer" / "model.safetensors"
    parts = AliTokPipeline.from_pretrained(file, tokenizer=tokenizer, config=models / "ar.yaml", seed=3)
    same = parts.with_settings(guidance_scale=16.0, guidance_scale_pow=1.8).generate([0, 1, 2])
    torch.testing.assert_close(same, images)
    codes = whole.tokenizer.encode(images)
    assert whole.tokenizer.decode(codes).shape == images.shape
    with pytest.raises(UserError, match="name their configuration"):
        AliTokPipeline.from_pretrained(file)
    with pytest.raises(UserError, match="no file, no folder and no hub id"):
        AliTokPipeline.from_pretrained(tmp_path / "nowhere" / "at" / "all")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="no-such/repository is no folder, and no hub repository"):
        AliTokPipeline.from_pretrained("no-such/repository")
    with pytest.raises(UserError, match="sampling settings: top_k is 0"):
        AliTokPipeline.from_pretrained(models / "hub", settings={"top_k": 0})
    with pytest.raises(UserError, match="class 4 is out of range, the classes are 0 to 3"):
        whole.generate([4])
    with pytest.raises(UserError, match="choose bf16 or fp32"):
        AliTokPipeline.from_pretrained(models / "hub", precision="fp8")


def test_a_training_folder_is_enough(models, tmp_path):
    """config.yaml and model.safetensors, with the tokenizer that the configuration names."""
    config = (models / "ar.yaml").read_text()
    tokenizer = models / "tokenizer" / "model.safetensors"
    config = config.replace("experiment:", f"experiment:\n  tokenizer_checkpoint: {tokenizer}", 1)
    (tmp_path / "config.yaml").write_text(config)
    export_weights(tmp_path, toy.generator().state_dict())
    assert len(AliTokPipeline.from_pretrained(tmp_path).generate([0, 1])) == 2


def test_stream_ends_with_the_image(models):
    pipeline = AliTokPipeline.from_pretrained(models / "hub")
    steps = list(pipeline.stream([0, 3], every=3))
    assert len(steps) == 3  # after 3, 6 and all 7 codes
    torch.testing.assert_close(steps[-1], pipeline.generate([0, 3]))
    assert not torch.equal(steps[0], steps[-1])


def test_sample_as_a_command(models, tmp_path):
    output = tmp_path / "grid.png"
    grid = ("sample.py", models / "hub", "--output", output, "--per_class", 3)
    result = run(*grid, "--classes", "0,2", "--temperature", 0.5, "--top_k", 8)
    assert "(0)" in result.stdout and "(2)" in result.stdout
    scale = 96 // toy.IMAGE_SIZE
    assert Image.open(output).size == (scale * (3 * (toy.IMAGE_SIZE + 2) + 2), scale * (2 * (toy.IMAGE_SIZE + 2) + 2))
    wrong = run(*grid, "--classes", "tench", check=False)
    assert wrong.returncode == 2 and "only ImageNet's 1000 classes have names" in wrong.stderr


def test_imagenet_names():
    assert class_id("golden retriever", 1000) == 207 and class_id(" Siberian Husky", 1000) == 250
    assert class_id("999", 1000) == 999
    for text, message in (
        ("golden retreiver", "did you mean 'golden retriever'"),
        ("crane", "names the classes 134, 517"),
        ("1000", "out of range"),
        ("-1", "out of range"),
    ):
        with pytest.raises(UserError, match=message):
            class_id(text, 1000)
