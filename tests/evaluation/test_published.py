"""The table of published rows, and finding what a row needs."""

import re

import numpy as np
import pytest

from evaluation.published import find_files, metrics_of, read_table, reference_faults
from evaluation.reference import Reference
from evaluation.reproduce import row_lines
from modeling.configs import read_models_config
from tests.support.paths import ROOT
from utils.errors import UserError


@pytest.fixture(scope="module")
def table():
    return read_table()


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_readmes_table_has_the_values_of_the_rows(table):
    readme = (ROOT / "README.md").read_text()
    lines = re.findall(r"^\| ([\w-]+) \| (\d+)M \| ([\d.]+) \| ([\d.]+|–) \| published", readme, re.M)
    rows = {row.model: row for row in table.rows.values() if row.parameters}
    assert [line[0] for line in lines] == list(rows)
    for model, parameters, fid, inception_score in lines:
        row = rows[model]
        assert row.parameters == int(parameters)
        assert row.expected["fid"] == float(fid)
        assert row.expected.get("inception_score") == (None if inception_score == "–" else float(inception_score))


def test_every_row_has_a_configuration_that_its_model_is_made_of(table):
    for name, row in table.rows.items():
        models = read_models_config(row.config)
        assert models.generator.guidance_scale > 0, name
        assert models.generator.condition_num_classes == (10 if name == "quickstart" else 1000)
        assert models.vq_model.image_size == (32 if name == "quickstart" else 256)


def test_missing_files_are_named_with_where_to_get_them(table, tmp_path):
    with pytest.raises(UserError) as caught:
        find_files(table, table.row("rar_b"), [tmp_path])
    for text in ("rar_b.bin and maskgit-vqgan", "yucornetto/RAR", "VIRTUAL_imagenet256_labeled.npz from https://"):
        assert text in str(caught.value)
    for name in ("rar_b.bin", "maskgit-vqgan-imagenet-f16-256.bin", "VIRTUAL_imagenet256_labeled.npz"):
        (tmp_path / name).touch()
    assert find_files(table, table.row("rar_b"), [tmp_path]).generator == tmp_path / "rar_b.bin"
    with pytest.raises(UserError, match=r"no row 'alitok_m'; did you mean 'alitok_.*choose alitok_b, alitok_l"):
        table.row("alitok_m")


def test_a_named_file_that_is_not_there_is_no_reason_for_a_download(table, tmp_path):
    for name in ("rar_b.bin", "maskgit-vqgan-imagenet-f16-256.bin", "own.npz"):
        (tmp_path / name).touch()
    row = table.row("rar_b")
    assert find_files(table, row, [tmp_path], tmp_path / "own.npz").reference == tmp_path / "own.npz"
    with pytest.raises(UserError, match=r"--reference .*other.npz: there is no such file"):
        find_files(table, row, [tmp_path], tmp_path / "other.npz")
    with pytest.raises(UserError, match=r"--weights .*nowhere: there is no such file or folder"):
        find_files(table, row, [tmp_path, tmp_path / "nowhere"])


def test_metrics_are_those_that_the_reference_allows(table, tmp_path, capsys):
    statistics, images = {"mu": np.zeros(4), "sigma": np.eye(4)}, np.zeros((10, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "statistics.npz", **statistics)
    np.savez(tmp_path / "both.npz", arr_0=images, **statistics)
    row = table.row("alitok_b")
    assert metrics_of(row, Reference(tmp_path / "both.npz")) == ["is", "fid", "sfid", "pr"]
    assert metrics_of(row, Reference(tmp_path / "statistics.npz")) == ["is", "fid"]
    assert "holds only statistics: no sFID, Precision, Recall" in capsys.readouterr().err


def test_a_wrong_reference_is_refused(table, tmp_path):
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((10, 64, 64, 3), np.uint8))
    faults = [*reference_faults(Reference(tmp_path / "images.npz"), table.references["imagenet256"], 256)]
    assert [fault.fatal for fault in faults] == [True, True, False]
    assert "compares with statistics of the training set" in faults[0].text
    assert "64x64, the model's are of 256" in faults[1].text
    assert "10 images, the published file 10000" in faults[2].text


def test_the_row_says_whether_a_difference_is_within_the_scatter(table):
    row = table.row("alitok_b")
    values = {"fid": 1.52, "inception_score": 290.0, "sfid": 5.0}
    _, inception, fid, sfid = row_lines(table, row, values)
    assert fid.split() == ["FID", "1.5", "1.52", "±", "0.03,", "within", "it"]
    assert inception.endswith("± 4.6, outside: -16")
    assert sfid.split() == ["sFID", "–", "5"]


def test_mistakes_in_a_table_are_named(tmp_path):
    (tmp_path / "rows.yaml").write_text(
        "sources: {here: there}\nreferences: {r: {file: f, source: s, images: 1}}\n"
        "rows:\n"
        "  x: {model: X, config: c, generator: g, tokenizer: t, source: here, reference: r, expected: {fdi: 1}}\n"
    )
    with pytest.raises(UserError, match=r"rows\.x: there is no metric 'fdi'; did you mean 'fid'"):
        read_table(tmp_path / "rows.yaml")


@pytest.mark.parametrize("name", ["VIRTUAL_imagenet256_labeled.npz", "VIRTUAL_imagenet512.npz"])
def test_adms_files_are_known_by_their_names(tmp_path, name):
    """The names of openaipublic's `ref_batches/imagenet`."""
    statistics = {"mu": np.zeros(4), "sigma": np.eye(4)}
    np.savez(tmp_path / name, arr_0=np.zeros((10, 8, 8, 3), np.uint8), **statistics)
    assert "statistics of the whole training set" in Reference(tmp_path / name).describe()
