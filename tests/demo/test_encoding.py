"""An image file as codes, and their picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from demo.encoding import codes_in_rows, encode, num_rows
from demo.pictures import MARGIN, code_picture
from modeling.interfaces import CodeLayout
from utils.errors import UserError

GRID, LINE = CodeLayout(32, 73, 9, (8, 8)), CodeLayout(32, 6)


def test_an_image_of_any_size(models, tmp_path):
    Image.effect_noise((90, 50), 80).convert("RGBA").save(tmp_path / "noise.png")
    encoded = encode(models[0], tmp_path / "noise.png")
    assert encoded.image.shape == encoded.reconstruction.shape == (1, 3, 32, 32)
    tokenizer = models[0].pipeline.tokenizer
    torch.testing.assert_close(tokenizer.decode(encoded.codes), encoded.reconstruction)
    different = len(set(encoded.codes[0].tolist()))
    assert f"73 codes, {different} different ones of the codebook's 32" in encoded.describe(32)


def test_a_file_that_is_no_image(models, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png is not an image"):
        encode(models[0], tmp_path / "text.png")


def test_rows_to_keep():
    assert [codes_in_rows(GRID, rows) for rows in (0, 1, 8)] == [9, 17, 73]
    assert num_rows(GRID) == 8
    assert [codes_in_rows(LINE, rows) for rows in (0, 1, num_rows(LINE))] == [0, 1, 6]


def test_codes_that_are_drawn_again_are_grey():
    codes = [place % 5 for place in range(73)]
    sheet = code_picture(codes, GRID, [place < 17 for place in range(73)])
    cell = sheet.width // 8
    top = sheet.height - 8 * cell
    colours = np.array(sheet)
    corner = [colours[top + 2 + row * cell, 2 + column * cell] for row in range(8) for column in range(8)]
    assert all(np.ptp(colour) > 30 for colour in corner[:8])
    assert all((colour == 225).all() for colour in corner[8:])
    assert (corner[0] == corner[5]).all()  # codes 4 and 4
    assert (corner[0] != corner[1]).any()
    assert np.ptp(colours[MARGIN + 2, 2]) > 30  # the first prefix code
