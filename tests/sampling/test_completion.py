"""Completion: kept codes stay, and the others are drawn as if the kept ones had been drawn."""

from itertools import pairwise

import pytest
import torch

from modeling.rar import cache as rar_cache
from sampling.autoregressive import AutoregressiveDecoder
from sampling.masked import MaskedDecoder, MaskedSettings
from sampling.noise import image_noise
from sampling.pipeline import Pipeline
from sampling.settings import SamplingSettings
from tests.support import toy
from tests.support.toy.maskgit import masked_generator
from tests.support.toy.rar import rar_generator
from utils.errors import UserError

T = toy.NUM_CODES
CLASSES = torch.tensor([0, 3, 1])
SETTINGS = SamplingSettings(4.0, 1.0)
MASKED_SETTINGS = MaskedSettings(4, 3.0, temperature=1.0)
SOFT_SETTINGS = SamplingSettings(4.0, 1.0, soft_guidance=True)
GENERATORS = {
    "raster": toy.generator,
    "reversed": lambda: toy.generator(code_order="reversed"),
    "shuffled": lambda: toy.generator(code_order="shuffled"),
    "rar": rar_generator,
}


def first_kept(decoder, codes: torch.Tensor, count: int) -> torch.Tensor:
    """codes (B, T) with -1 in place of all but the `count` codes that are drawn first."""
    kept, places = torch.full_like(codes, -1), decoder.order[:count]
    kept[:, places] = codes[:, places]
    return kept


def some_codes(rows: int) -> torch.Tensor:
    return torch.randint(0, toy.CODEBOOK_SIZE, (rows, T), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("options", [{}, {"fixed_rows": 5}])
@pytest.mark.parametrize("settings", [SamplingSettings(0.0), SETTINGS, SOFT_SETTINGS])
def test_an_image_is_completed_from_its_own_first_codes(name, options, settings):
    decoder = AutoregressiveDecoder(GENERATORS[name](), settings, **options)
    noise = image_noise(3, range(3), T)
    drawn = decoder(CLASSES, noise)
    for count in range(T + 1):
        assert torch.equal(decoder(CLASSES, noise, first_kept(decoder, drawn, count)), drawn)


@pytest.mark.parametrize("run_bytes", [1, 3 * 6 * 2 * 2 * 32 * 4 * 3])
def test_rars_modulations_fit_after_kept_codes(monkeypatch, run_bytes):
    """Whether a run of modulations has room for one position or for three."""
    monkeypatch.setattr(rar_cache, "MODULATION_BYTES", run_bytes)
    test_an_image_is_completed_from_its_own_first_codes("rar", {}, SOFT_SETTINGS)


@torch.no_grad()
@pytest.mark.parametrize("name", GENERATORS)
def test_drawn_codes_follow_kept_codes_of_another_image(name):
    """At temperature 0 each drawn code is the most likely one after those before it."""
    model, codes = GENERATORS[name](), some_codes(3)
    decoder = AutoregressiveDecoder(model, SamplingSettings(temperature=0))
    for count in (1, 4):
        completed = decoder(CLASSES, image_noise(0, range(3), T), first_kept(decoder, codes, count))[:, decoder.order]
        assert torch.equal(completed[:, :count], codes[:, decoder.order[:count]])
        likely = model(completed[:, :-1], CLASSES).argmax(-1)
        assert torch.equal(completed[:, count:], likely[:, count:])


def test_kept_codes_enter_the_cache_in_one_pass():
    model = toy.generator()
    lengths = []
    model.register_forward_hook(lambda _model, inputs, _logits: lengths.append(inputs[0].shape[1]))
    decoder = AutoregressiveDecoder(model, SETTINGS)
    decoder(CLASSES, image_noise(0, range(3), T), first_kept(decoder, some_codes(3), 5))
    assert lengths == [4] + [1] * (T - 5)


def test_a_completion_is_streamed():
    decoder, codes = AutoregressiveDecoder(toy.generator(), SETTINGS), some_codes(3)
    kept = first_kept(decoder, codes, 4)
    noise = image_noise(0, range(3), T)
    stages = list(decoder.stream(CLASSES, noise, kept))
    assert [int((stage[0] >= 0).sum()) for stage in stages] == [5, 6, 7]
    for early, late in pairwise([kept, *stages]):
        assert torch.equal(early[early >= 0], late[early >= 0])
    assert torch.equal(stages[-1], decoder(CLASSES, noise, kept))
    assert len(list(decoder.stream(CLASSES, noise, codes))) == 1


@pytest.mark.parametrize(
    ("name", "settings", "compile"),
    [
        ("raster", SETTINGS, False),
        ("rar", SOFT_SETTINGS, False),
        pytest.param("raster", SOFT_SETTINGS, True, marks=pytest.mark.slow),
    ],
)
def test_the_fast_cpu_path_completes_the_same(name, settings, compile):
    plain = AutoregressiveDecoder(GENERATORS[name](), settings)
    model = GENERATORS[name]().requires_grad_(False)
    forward = AutoregressiveDecoder.prepare(model, settings, 4, compile)
    fast = AutoregressiveDecoder(model, settings, fixed_rows=4, forward=forward)
    noise = image_noise(3, range(3), T)
    for count in (0, 1, 5, T):
        kept = first_kept(plain, some_codes(3), count)
        assert torch.equal(fast(CLASSES, noise, kept), plain(CLASSES, noise, kept))


def test_only_the_first_codes_can_be_kept_where_codes_have_an_order():
    decoder, noise, codes = AutoregressiveDecoder(toy.generator(), SETTINGS), image_noise(0, range(3), T), some_codes(3)
    gap, uneven, large = (first_kept(decoder, codes, 3) for _ in range(3))
    gap[:, 1], uneven[1, 2], large[0, 0] = -1, -1, toy.CODEBOOK_SIZE
    for kept, message in (
        (gap, "only the first ones can be kept"),
        (uneven, "only the first ones can be kept"),
        (large, rf"not in \[0, {toy.CODEBOOK_SIZE}\)"),
        (codes[:2], rf"shape \(2, {T}\), not \(3, {T}\)"),
    ):
        with pytest.raises(ValueError, match=message):
            decoder(CLASSES, noise, kept)


@pytest.mark.parametrize("options", [{}, {"fixed_rows": 5}])
def test_masked_decoding_keeps_codes_anywhere(options):
    decoder, codes = MaskedDecoder(masked_generator(), MASKED_SETTINGS, **options), some_codes(3)
    noise = image_noise(0, range(3), decoder.noise_shape)
    kept = torch.full_like(codes, -1)
    places = [0, 2, 6]
    kept[:, places] = codes[:, places]
    stages = list(decoder.stream(CLASSES, noise, kept))
    for stage in stages:
        assert torch.equal(stage[:, places], codes[:, places])
    assert [int((stage[0] < 0).sum()) for stage in stages] == [3, 2, 1, 0]
    assert not torch.equal(stages[-1], decoder(CLASSES, noise))
    assert torch.equal(decoder(CLASSES, noise, codes), codes)
    kept[0, 0] = -1
    with pytest.raises(ValueError, match="equally many codes of each image"):
        decoder(CLASSES, noise, kept)


def test_nothing_kept_is_a_draw():
    nothing = torch.full((3, T), -1)
    one_by_one = AutoregressiveDecoder(toy.generator(), SETTINGS)
    for decoder in (one_by_one, MaskedDecoder(masked_generator(), MASKED_SETTINGS)):
        noise = image_noise(0, range(3), decoder.noise_shape)
        assert torch.equal(decoder(CLASSES, noise, nothing), decoder(CLASSES, noise))


def test_pipelines_complete_images_and_codes(pretrained):
    pipeline = Pipeline.from_pretrained(pretrained / "hub", batch_size=2)
    classes = CLASSES.tolist()
    drawn = torch.cat([pipeline.generate_codes(classes[i : i + 1], [i]) for i in range(3)])
    kept = pipeline.keep_codes(drawn, 4)
    assert torch.equal(kept >= 0, (torch.arange(T) < 4).expand(3, -1))
    torch.testing.assert_close(pipeline.complete(drawn, 4, classes), pipeline.generate(classes))
    images = pipeline.decode(drawn[:1])
    codes = pipeline.tokenizer.encode(images)
    assert torch.equal(pipeline.keep_codes(images, 4)[:, :4], codes[:, :4])
    variants = pipeline.complete(images, 4, [2, 2, 1])
    torch.testing.assert_close(variants[1:2], pipeline.complete(codes, 4, [2], image_ids=[1]))
    *_, last = pipeline.stream([2, 2], every=2, kept=pipeline.keep_codes(images, 4))
    torch.testing.assert_close(last, variants[:2])
    assert torch.equal(pipeline.keep_codes(codes, [1, 6]) >= 0, torch.isin(torch.arange(T), torch.tensor([1, 6]))[None])
    for arguments, message in (
        ((codes, T + 1, [0]), f"{T + 1} codes cannot be kept: an image has {T}"),
        ((codes, [1, T], [0]), f"the places of kept codes must be in .0, {T}., not .1, {T}."),
        ((images[..., :-1], 1, [0]), "images to complete have the shape"),
        ((drawn[:2], 1, [0, 1, 2]), "2 images to complete for 3 classes"),
    ):
        with pytest.raises(UserError, match=message):
            pipeline.complete(*arguments)
