import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.evaluate_samples import SampleEvaluation, report_lines, warnings_for
from evaluation.extractors import ClassifierExtractor
from evaluation.fid import Statistics
from utils.errors import UserError
from utils.npz import NpzImages


@pytest.fixture(scope="module")
def extractor(files):
    return ClassifierExtractor(files / "c.safetensors")


def test_only_chosen_metrics_are_computed(files, extractor):
    values = SampleEvaluation(files / "reference.npz", files / "samples.npz", ("fid",)).run(extractor, 64)
    assert values.keys() == {"fid"}
    assert report_lines(values) == f"FID: {values['fid']}"
    with pytest.raises(UserError, match="unknown metric 'fdi': choose from is,fid,sfid,pr,kid,agreement; did you mean"):
        SampleEvaluation(files / "reference.npz", files / "samples.npz", ("fdi",))


def test_a_mistyped_array_is_named(files, tmp_path):
    np.savez(tmp_path / "s.npz", images=next(NpzImages(files / "samples.npz").batches(140)))
    evaluation = SampleEvaluation(files / "reference.npz", tmp_path / "s.npz", ("fid",), "images")
    assert (evaluation.samples.array, evaluation.reference.images.array) == ("images", "arr_0")
    with pytest.raises(UserError, match=r"--array: no array 'imgaes' \(.*reference.npz has arr_0; .*s.npz has images"):
        SampleEvaluation(files / "reference.npz", tmp_path / "s.npz", ("fid",), "imgaes")


def test_adms_five_lines_come_last():
    keys = ("inception_score", "fid", "fid_low", "fid_high", "sfid", "precision", "recall", "kid", "agreement")
    titles = [line.split(": ")[0] for line in report_lines(dict.fromkeys(keys, 1.0)).splitlines()]
    assert len(titles) == len(keys)
    assert titles[-5:] == ["Inception Score", "FID", "sFID", "Precision", "Recall"]


def test_class_agreement_is_the_share_of_samples_that_the_classifier_recognises(files, extractor, tmp_path):
    images = next(NpzImages(files / "samples.npz").batches(140))
    labels = extractor(torch.from_numpy(images)).logits.argmax(1).numpy()
    labels[:35] = (labels[:35] + 1) % 4

    def agreement(**arrays: np.ndarray) -> float:
        np.savez(tmp_path / "s.npz", arr_0=images, **arrays)
        values = SampleEvaluation(files / "reference.npz", tmp_path / "s.npz", ("agreement",)).run(extractor, 64)
        assert report_lines(values) == f"Class agreement: {values['agreement']}"
        return values["agreement"]

    assert agreement(arr_1=labels) == 0.75
    for wrong in ({}, {"arr_1": labels[:-1]}, {"arr_1": labels / 4}):
        with pytest.raises(UserError, match="agreement needs arr_1, one integer class per image"):
            agreement(**wrong)
    with pytest.raises(UserError, match=r"classes are 4 to \d in arr_1, the classifier has 4 classes"):
        agreement(arr_1=labels - labels.min() + 4)
    with pytest.raises(UserError, match=r"classes are -1 to"):
        agreement(arr_1=labels - labels.min() - 1)


def test_stored_statistics_replace_the_references_images(files, extractor, tmp_path):
    whole = SampleEvaluation(files / "reference.npz", files / "samples.npz").run(extractor, 64)
    features = extractor(torch.from_numpy(next(NpzImages(files / "reference.npz").batches(150))))
    pool, spatial = (Statistics.from_features(x) for x in (features.pool, features.spatial))
    stored = {"mu": pool.mu, "sigma": pool.sigma, "mu_s": spatial.mu, "sigma_s": spatial.sigma}
    stored = {name: value.numpy() for name, value in stored.items()}
    blank = np.zeros((10, 16, 16, 3), np.uint8)

    def evaluate(metrics: tuple[str, ...], **changes: np.ndarray) -> dict[str, float]:
        np.savez(tmp_path / "ref.npz", arr_0=blank, **(stored | changes))
        return SampleEvaluation(tmp_path / "ref.npz", files / "samples.npz", metrics).run(extractor, 64)

    values = evaluate(("fid", "sfid"))
    assert values["fid"] == pytest.approx(whole["fid"], rel=1e-6)
    assert values["sfid"] == pytest.approx(whole["sfid"], rel=1e-6)
    with pytest.raises(UserError, match=r"ref.npz has 7 pool features, .*samples.npz has 128 with classifier"):
        evaluate(("fid",), mu=np.zeros(7))
    assert evaluate(("is",), mu=np.zeros(7)).keys() == {"inception_score"}


def test_images_of_different_sizes_have_no_common_sfid(files, extractor, tmp_path):
    """With the classifier, which does not resize."""
    larger = np.random.default_rng(0).integers(0, 256, (20, 24, 24, 3), dtype=np.uint8)
    np.savez(tmp_path / "larger.npz", arr_0=larger)
    files_and_metrics = (files / "reference.npz", tmp_path / "larger.npz", ("sfid",))
    with pytest.raises(UserError, match=r"reference.npz has 112 spatial features, .*larger.npz has 252"):
        SampleEvaluation(*files_and_metrics).run(extractor, 64)


def test_warnings_where_numbers_do_not_compare(tmp_path):
    def images(n: int, size: int) -> NpzImages:
        np.savez(tmp_path / f"{n}.npz", arr_0=np.zeros((n, size, size, 3), np.uint8))
        return NpzImages(tmp_path / f"{n}.npz")

    reference, few, some = images(60, 2), images(40, 2), images(3000, 1)
    assert "40 samples for 2048 features" in warnings_for(reference, few, 2048)[0]
    number, size = warnings_for(reference, some, 2048)
    assert "published values use 50000" in number
    assert "samples are 1x1, reference images 2x2" in size
    assert warnings_for(some, images(50_000, 1), 2048) == []


@pytest.fixture(scope="module")
def statistics(files, extractor) -> dict[str, np.ndarray]:
    """mu and sigma of the reference's pool features."""
    features = extractor(torch.from_numpy(next(NpzImages(files / "reference.npz").batches(150))))
    pool = Statistics.from_features(features.pool)
    return {"mu": pool.mu.numpy(), "sigma": pool.sigma.numpy()}


def test_a_reference_of_statistics_only(files, extractor, statistics, tmp_path, capsys):
    np.savez(tmp_path / "s.npz", **statistics)
    whole = SampleEvaluation(files / "reference.npz", files / "samples.npz", ("fid", "is")).run(extractor, 64)
    for metrics in (("fid", "is"), None):  # None: all that is possible
        values = SampleEvaluation(tmp_path / "s.npz", files / "samples.npz", metrics).run(extractor, 64)
        assert values == pytest.approx(whole, rel=1e-6)
    assert "holds only statistics: no sFID, Precision, Recall" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"s.npz holds only statistics of pool features: no sFID"):
        SampleEvaluation(tmp_path / "s.npz", files / "samples.npz", ("fid", "sfid"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mu": np.full(128, np.nan)}, "NaN or infinity in mu"),
        ({"sigma": np.zeros(128)}, r"sigma has the shape \(128,\); mu is \(d,\) and sigma \(d, d\)"),
    ],
)
def test_statistics_that_are_none(files, statistics, tmp_path, changes, message):
    np.savez(tmp_path / "s.npz", **statistics | changes)
    with pytest.raises(UserError, match=message):
        SampleEvaluation(tmp_path / "s.npz", files / "samples.npz")


def test_a_folder_of_images_is_read_in_the_order_of_names(files, extractor, tmp_path, capsys):
    expected = SampleEvaluation(files / "reference.npz", files / "samples.npz").run(extractor, 64)
    for i, pixels in enumerate(next(NpzImages(files / "samples.npz").batches(140))):
        target = tmp_path / "pngs" / str(i // 100) / f"{i:06d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target)
    for hidden in ("._000000.png", "__MACOSX/1.png"):
        (tmp_path / "pngs" / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / "pngs" / hidden).write_bytes(b"no image")
    assert SampleEvaluation(files / "reference.npz", tmp_path / "pngs").run(extractor, 64) == expected
    assert "lossy" not in capsys.readouterr().err
    Image.new("RGB", (16, 16)).save(tmp_path / "pngs" / "z.jpg")
    evaluation = SampleEvaluation(files / "reference.npz", tmp_path / "pngs")
    assert "1 files are lossy" in capsys.readouterr().err
    Image.new("RGB", (8, 16)).save(tmp_path / "pngs" / "z.jpg")
    with pytest.raises(UserError, match=r"z.jpg is 8x16, .*000000.png is 16x16: images have one size"):
        evaluation.run(extractor, 64)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.txt").touch()
    with pytest.raises(UserError, match=r"empty holds no images, but x.txt"):
        SampleEvaluation(tmp_path / "empty", files / "samples.npz")


def test_arrays_of_other_names(files, extractor, tmp_path):
    np.savez(tmp_path / "x.npz", x_train=next(NpzImages(files / "reference.npz").batches(150)), y_train=np.zeros(150))
    arguments = (tmp_path / "x.npz", files / "samples.npz", ("fid",))
    with pytest.raises(UserError, match=r"x.npz has no array 'arr_0', but x_train, y_train: .* --array"):
        SampleEvaluation(*arguments)
    values = SampleEvaluation(*arguments, array="x_train").run(extractor, 64)
    assert values == SampleEvaluation(files / "reference.npz", *arguments[1:]).run(extractor, 64)
