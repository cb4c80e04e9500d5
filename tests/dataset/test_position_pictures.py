"""Values by code position, where the codes are in the image."""

import numpy as np
import pytest

from dataset.position_pictures import PositionValues, code_map, position_picture
from modeling.interfaces import CodeLayout

NAN = np.nan


@pytest.mark.parametrize(
    ("num_prefix", "expected"),
    [
        (0, [[0, 1], [2, 3]]),
        (2, [[0, 1], [NAN, NAN], [2, 3], [4, 5]]),
        (3, [[0, 1, 2], [NAN, NAN, NAN], [NAN, 3, 4], [NAN, 5, 6]]),
    ],
)
def test_codes_are_where_they_are_in_the_image(num_prefix, expected):
    layout = CodeLayout(8, num_prefix + 4, num_prefix, (2, 2))
    np.testing.assert_array_equal(code_map(np.arange(num_prefix + 4.0), layout), np.array(expected, float))


def test_a_value_changes_its_place_of_the_picture_only():
    layout = CodeLayout(8, 4, 0, (2, 2))

    def picture(first: float) -> np.ndarray:  # the range of the colours stays 0 .. 3
        panel = PositionValues("accuracy", np.array([first, 3.0, 0.0, 1.0]))
        return np.asarray(position_picture([panel], layout)).astype(int)[100:]  # without the title, which has the mean

    changed = (picture(0.5) != picture(2.5)).any(-1)
    rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
    assert 100 < np.ptp(rows) < changed.shape[0] / 2
    assert 100 < np.ptp(columns) < changed.shape[1] / 2
    assert changed[rows[0] : rows[-1], columns[0] : columns[-1]].all()


def test_codes_on_a_line_and_unknown_values():
    values = np.array([NAN, 1.0, 2.0])
    picture = position_picture([PositionValues("a", values), PositionValues("b", values)], CodeLayout(8, 3))
    other = position_picture([PositionValues("a", values), PositionValues("b", values[::-1])], CodeLayout(8, 3))
    difference = (np.asarray(picture) != np.asarray(other)).any((0, 2)).nonzero()[0]
    assert difference.min() > picture.width / 2  # the second panel
    position_picture([PositionValues("nothing known", np.full(3, NAN))], CodeLayout(8, 3))
