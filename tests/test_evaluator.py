"""The evaluator beyond ADM's formulas: TensorFlow's weights, preprocessing, KID, intervals, files, processes."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from evaluation.adm_metrics import statistics
from evaluation.bootstrap import fid_interval
from evaluation.evaluate_samples import evaluate_npz, warnings_for
from evaluation.extractors import ClassifierExtractor
from evaluation.features import Features, extract
from evaluation.graph_def import read_constants
from evaluation.inception import InceptionExtractor
from evaluation.inception_graph import layer_names, read_inception_graph
from evaluation.kid import kernel_distance, squared_mmd
from modeling.frozen.small_classifier import Classifier, save_classifier
from tests.support import toy
from tests.support.launch import run
from tests.support.paths import ROOT
from utils.errors import UserError
from utils.npz import NpzImages

EVALUATOR = "guided-diffusion/evaluations/evaluator.py"


# -- TensorFlow's file --------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    """One field of a Protocol Buffers message: a varint or length-delimited bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(array: np.ndarray, how: str = "content") -> bytes:
    shape = b"".join(field(2, field(1, size)) for size in array.shape)
    head = field(1, 1) + field(2, shape)
    if how == "content":
        return head + field(4, array.astype("<f4").tobytes())
    if how == "packed":
        return head + field(5, array.astype("<f4").tobytes())
    return head + b"".join(varint(5 << 3 | 5) + struct.pack("<f", x) for x in array.ravel())  # one by one


def node(name: str, op: str, value: bytes | None = None) -> bytes:
    attributes = field(5, field(1, b"dtype") + field(2, field(6, 1)))
    if value is not None:
        attributes += field(5, field(1, b"value") + field(2, field(8, value)))
    return field(1, field(1, name.encode()) + field(2, op.encode()) + field(3, b"input") + attributes)


def test_constants_of_a_graph(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"a/weights": rng.standard_normal((2, 300)), "b": rng.standard_normal(3), "c": rng.standard_normal((2, 2))}
    arrays = {k: v.astype(np.float32) for k, v in arrays.items()}
    graph = node("x", "Placeholder") + node("a/weights", "Const", tensor(arrays["a/weights"]))
    graph += node("b", "Const", tensor(arrays["b"], "packed")) + node("c", "Const", tensor(arrays["c"], "single"))
    graph += node("all", "Const", field(1, 1) + field(2, field(2, field(1, 4))) + field(5, struct.pack("<f", 7.0)))
    graph += node("integers", "Const", field(1, 3) + field(2, b"") + field(7, 5))
    graph += field(4, field(1, 22))  # versions, which a graph ends with
    path = tmp_path / "graph.pb"
    path.write_bytes(graph)
    constants = read_constants(path)
    assert constants.keys() == {*arrays, "all"} and constants["all"].tolist() == [7.0] * 4
    assert all((constants[k] == v).all() for k, v in arrays.items())
    for damaged in (graph[: len(graph) // 2], b"no graph at all", b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="GraphDef"):
            read_constants(path)
    path.write_bytes(graph)
    with pytest.raises(UserError, match="is not TensorFlow's Inception"):
        read_inception_graph(path)


@pytest.fixture(scope="module")
def inception_files(tmp_path_factory):
    """Random weights of ADM's network as torch-fidelity's file and as TensorFlow's."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    folder = tmp_path_factory.mktemp("inception")
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):  # its shapes, for which it wants a file
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path="x")
    generator, state = torch.Generator().manual_seed(0), {}
    for key, value in network.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
        elif "bn" in key:
            state[key] = (1 if key.endswith(("weight", "var")) else 0) + 0.1 * noise.abs()
        else:
            state[key] = noise * (2 / value[0].numel()) ** 0.5
    torch.save(state, folder / "inception.pth")
    graph = b""
    for ours, scope in layer_names().items():
        weight = state[f"{ours}.conv.weight"].permute(2, 3, 1, 0).contiguous().numpy()
        graph += node(f"{scope}/conv2d_params", "Const", tensor(weight))
        for name, theirs in (
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "moving_mean"),
            ("running_var", "moving_variance"),
        ):
            graph += node(f"{scope}/batchnorm/{theirs}", "Const", tensor(state[f"{ours}.bn.{name}"].numpy()))
    graph += node("softmax/weights", "Const", tensor(state["fc.weight"].T.contiguous().numpy()))
    graph += node("softmax/biases", "Const", tensor(state["fc.bias"].numpy()))
    (folder / "classify_image_graph_def.pb").write_bytes(graph)
    return folder


def test_both_weight_files_give_the_same_features(inception_files):
    """And the layer names cover torch-fidelity's network, shapes included."""
    images = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one = InceptionExtractor(inception_files / "inception.pth")(images)
    two = InceptionExtractor(inception_files / "classify_image_graph_def.pb")(images)
    assert one.pool.shape == (2, 2048) and one.spatial.shape == (2, 7 * 17 * 17) and one.logits.shape == (2, 1008)
    assert one.pool.std() > 0 and not torch.equal(one.pool[0], one.pool[1])
    for name in ("pool", "spatial", "logits"):
        assert torch.equal(getattr(one, name), getattr(two, name))


def test_spatial_features_and_logits_are_adms(inception_files):
    extractor = InceptionExtractor(inception_files / "inception.pth")
    images = torch.randint(0, 256, (1, 30, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    kept = []
    extractor.network.Mixed_6d.branch1x1.register_forward_hook(lambda _m, _i, output: kept.append(output))
    features = extractor(images)
    assert torch.equal(features.spatial.view(17, 17, 7), kept[0][0, :7].permute(1, 2, 0))
    torch.testing.assert_close(features.logits, features.pool @ extractor.network.fc.weight.T)  # no bias


@pytest.mark.parametrize("size", [(13, 40), (299, 299), (256, 301)])
def test_resize_and_scaling_are_tensorflows(inception_files, size):
    """TF1's bilinear: source coordinate = output index * (in / out), no half-pixel centres, edges clamped."""
    extractor = InceptionExtractor(inception_files / "inception.pth")
    seen = []
    extractor.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    extractor(torch.from_numpy(image)[None])
    x = image.astype(np.float64)
    for axis, length in enumerate(size):
        at = np.arange(299) * (length / 299)
        low = np.floor(at).astype(int)
        high, share = np.minimum(low + 1, length - 1), at - low
        shape = [299 if i == axis else 1 for i in range(3)]
        x = x.take(low, axis) * (1 - share.reshape(shape)) + x.take(high, axis) * share.reshape(shape)
    expected = (x - 128) / 128
    np.testing.assert_allclose(seen[0][0].permute(1, 2, 0).numpy(), expected, atol=2e-4)


# -- KID and the interval -------------------------------------------------------------------------------


def test_kid_is_the_definition():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 8)), rng.standard_normal((25, 8)) + 0.5

    def k(a, b):
        return (a @ b / 8 + 1) ** 3

    within_x = np.mean([k(x[i], x[j]) for i in range(30) for j in range(30) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(25) for j in range(25) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    assert float(squared_mmd(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(
        within_x + within_y - 2 * across
    )
    mean, std = kernel_distance(x, y, num_subsets=200, subset_size=20)
    assert mean == pytest.approx(within_x + within_y - 2 * across, abs=4 * std / 200**0.5 + 1e-3) and std > 0
    same, spread = kernel_distance(rng.standard_normal((4000, 8)), rng.standard_normal((4000, 8)))
    assert abs(same) < spread  # unbiased: about 0 for equal distributions


def test_fid_interval_covers_the_truth_as_often_as_it_says():
    """FID of N(0, 1)^20 against N(0.3, 1)^20 is 1.8. (Plain quantiles of the resampled values never cover it.)"""
    rng = np.random.default_rng(0)
    reference = statistics(rng.standard_normal((200_000, 20)))
    covered = 0
    for _ in range(40):
        low, high = fid_interval(reference, torch.from_numpy(rng.standard_normal((300, 20)) + 0.3), 100)
        assert low < high
        covered += low <= 1.8 <= high
    assert covered >= 34


# -- the command ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    torch.manual_seed(0)
    save_classifier(folder / "c.safetensors", Classifier(4), 4, 0.5)
    rng = np.random.default_rng(0)
    np.savez(folder / "reference.npz", arr_0=rng.integers(0, 256, (150, 16, 16, 3), dtype=np.uint8))
    np.savez_compressed(folder / "samples.npz", arr_0=rng.integers(0, 200, (140, 16, 16, 3), dtype=np.uint8))
    return folder


def test_several_processes_give_the_same_numbers(files, tmp_path):
    results = []
    for processes in (1, 2):
        output = run(
            *(EVALUATOR, files / "reference.npz", files / "samples.npz", "--classifier", files / "c.safetensors"),
            *("--batch_size", 32, "--metrics", "is,fid,sfid,pr,kid", "--bootstrap", 10),
            *("--json", tmp_path / f"{processes}.json"),
            processes=processes,
        )
        results.append(json.loads((tmp_path / f"{processes}.json").read_text()))
        names = [line.split(": ")[0] for line in output.stdout.strip().splitlines() if ": " in line][-5:]
        assert names == ["Inception Score", "FID", "sFID", "Precision", "Recall"]
        assert "KID: " in output.stdout and "95 % interval" in output.stdout
    assert results[0].pop("features") == results[1].pop("features")
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert results[0]["fid_low"] < results[0]["fid_high"]


def test_selected_metrics_alone(files):
    extractor = ClassifierExtractor(files / "c.safetensors")
    report = evaluate_npz(files / "reference.npz", files / "samples.npz", extractor, 64, metrics=("fid",))
    assert report.values.keys() == {"fid"} and report.lines().startswith("FID: ")
    with pytest.raises(UserError, match="unknown metrics fdi: choose of is,fid,sfid,pr,kid,agreement"):
        evaluate_npz(files / "reference.npz", files / "samples.npz", extractor, 64, metrics=("fdi",))


def test_features_that_are_not_finite_are_refused(files):
    extractor = ClassifierExtractor(files / "c.safetensors")

    def overflowing(images: torch.Tensor) -> Features:
        features = extractor(images)
        features.spatial[images.flatten(1).sum(1) == total, 3] = torch.inf
        return features

    overflowing.name = "a network"
    total = next(NpzImages(files / "samples.npz").batches(140))[70].sum(dtype=int)
    with pytest.raises(UserError, match=r"samples.npz: features of 1 images, the first of them number 70, are not"):
        extract(overflowing, NpzImages(files / "samples.npz"), 64, "samples")


def test_class_agreement_is_the_share_of_samples_that_the_classifier_recognises(files, tmp_path):
    extractor = ClassifierExtractor(files / "c.safetensors")
    images = next(NpzImages(files / "samples.npz").batches(140))
    labels = extractor(torch.from_numpy(images)).logits.argmax(1).numpy()
    labels[:35] = (labels[:35] + 1) % 4

    def agreement(network=extractor, **arrays: np.ndarray) -> float:
        np.savez(tmp_path / "s.npz", arr_0=images, **arrays)
        report = evaluate_npz(files / "reference.npz", tmp_path / "s.npz", network, 64, metrics=("agreement",))
        assert report.lines() == f"Class agreement: {report.values['agreement']}"
        return report.values["agreement"]

    assert agreement(arr_1=labels) == 0.75
    with pytest.raises(UserError, match="does not tell the class of each image"):
        agreement()
    with pytest.raises(UserError, match=r"has class \d, the classifier 4 classes"):
        agreement(arr_1=labels + 4)
    extractor.num_classes = None  # as Inception's
    with pytest.raises(UserError, match="it takes --classifier"):
        agreement(arr_1=labels)


def test_stored_statistics_are_used(files, tmp_path):
    """And the reference's images are then not even looked at, where no metric needs them."""
    extractor = ClassifierExtractor(files / "c.safetensors")
    whole = evaluate_npz(files / "reference.npz", files / "samples.npz", extractor, 64)
    features = extractor(torch.from_numpy(next(NpzImages(files / "reference.npz").batches(150))))
    pool, spatial = statistics(features.pool), statistics(features.spatial)
    stored = {"mu": pool.mu, "sigma": pool.sigma, "mu_s": spatial.mu, "sigma_s": spatial.sigma}
    stored = {k: v.numpy() for k, v in stored.items()}
    np.savez(tmp_path / "ref.npz", arr_0=np.zeros((10, 16, 16, 3), np.uint8), **stored)
    report = evaluate_npz(tmp_path / "ref.npz", files / "samples.npz", extractor, 64, metrics=("fid", "sfid"))
    assert report.values["fid"] == pytest.approx(whole.values["fid"], rel=1e-6)
    assert report.values["sfid"] == pytest.approx(whole.values["sfid"], rel=1e-6)
    np.savez(tmp_path / "ref.npz", arr_0=np.zeros((10, 16, 16, 3), np.uint8), **(stored | {"mu": np.zeros(7)}))
    with pytest.raises(UserError, match="its statistics are of 7 pool features, the samples have 128"):
        evaluate_npz(tmp_path / "ref.npz", files / "samples.npz", extractor, 64)


def test_a_reference_file_with_statistics(files, tmp_path):
    """Made of an .npz, it gives the numbers of that .npz; of a folder, the images of its crops."""
    command = ("-m", "evaluation.make_reference", "--classifier", files / "c.safetensors")
    run(*command, "--npz", files / "reference.npz", "--output", tmp_path / "ref.npz")
    extractor = ClassifierExtractor(files / "c.safetensors")
    with np.load(tmp_path / "ref.npz", allow_pickle=False) as arrays:
        assert arrays["sigma"].shape == (128, 128) and arrays["mu_s"].ndim == 1 and len(arrays["arr_0"]) == 150
    one, two = (
        evaluate_npz(r, files / "samples.npz", extractor, 64) for r in (files / "reference.npz", tmp_path / "ref.npz")
    )
    assert one.values == pytest.approx(two.values, rel=1e-5)
    images = toy.write_images(tmp_path / "images", per_class=3)
    run(*command, "--data_path", images, "--img_size", 16, "--max_images", 5, "--output", tmp_path / "folder.npz")
    with np.load(tmp_path / "folder.npz", allow_pickle=False) as arrays:
        assert arrays["arr_0"].shape == (5, 16, 16, 3) and len(arrays["arr_1"]) == 5 and "mu" in arrays


def test_warnings_where_a_number_means_little(tmp_path):
    def images(n: int, size: int) -> NpzImages:
        np.savez(tmp_path / f"{n}.npz", arr_0=np.zeros((n, size, size, 3), np.uint8))
        return NpzImages(tmp_path / f"{n}.npz")

    reference, few, some = images(60, 2), images(40, 2), images(3000, 1)
    assert "40 samples for 2048 features" in warnings_for(reference, few, 2048)[0]
    found = warnings_for(reference, some, 2048)
    assert "published values are of 50000" in found[0] and "samples are 1x1, reference images 2x2" in found[1]
    assert warnings_for(some, images(50_000, 1), 2048) == []


STREAM = """
import sys
from utils.npz import NpzImages
from tests.support.launch import peak_memory
images = NpzImages(sys.argv[1])
before = peak_memory()
assert sum(len(batch) for batch in images.batches(64)) == 4000
print(peak_memory() - before)
"""


@pytest.mark.parametrize("compressed", [False, True])
def test_images_are_streamed(tmp_path, compressed):
    """197 MB of pixels."""
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "x.npz", arr_0=np.zeros((4000, 128, 128, 3), np.uint8))
    command = [sys.executable, "-c", STREAM, tmp_path / "x.npz"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 60 << 20


def test_array_headers_and_pickles(tmp_path):
    import zipfile

    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    for version in ((1, 0), (2, 0)):
        with zipfile.ZipFile(tmp_path / "v.npz", "w") as archive, archive.open("arr_0.npy", "w") as member:
            np.lib.format.write_array(member, pixels, version=version)
        assert (np.concatenate(list(NpzImages(tmp_path / "v.npz").batches(2))) == pixels).all()
    np.savez(tmp_path / "o.npz", arr_0=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="images are uint8"):
        NpzImages(tmp_path / "o.npz")
    np.savez(tmp_path / "f.npz", arr_0=np.asfortranarray(pixels))
    with pytest.raises(UserError, match="C order"):
        NpzImages(tmp_path / "f.npz")
