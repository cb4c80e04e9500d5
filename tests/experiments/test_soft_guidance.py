"""The table of SoftCFG against plain guidance."""

import pytest

from experiments.soft_guidance import read_results, setting, table
from utils.atomic import write_json
from utils.errors import UserError


def test_the_table_has_differences_of_equal_seeds():
    fids = {False: (2.0, 3.0), True: (1.0, 4.0)}
    results = {
        setting(1.5, soft, seed, 100): {"fid": fid, "agreement": 0.5 + 0.1 * soft}
        for soft, values in fids.items()
        for seed, fid in enumerate(values)
    }
    *_, row = table(results, [1.5], [0, 1], 100).splitlines()
    assert row == ("| 1.5 | 2.50 ± 0.71 | 2.50 ± 2.12 | +0.00 ± 1.41 | 50.00 ± 0.00 | 60.00 ± 0.00 | +10.00 ± 0.00 |")


def test_results_of_other_weights_are_not_mixed(tmp_path):
    first = read_results(tmp_path / "r.json", "a")
    write_json(tmp_path / "r.json", first)
    assert read_results(tmp_path / "r.json", "a") == first
    with pytest.raises(UserError, match="results of another generator"):
        read_results(tmp_path / "r.json", "b")
