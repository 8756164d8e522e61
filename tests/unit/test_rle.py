import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from nerveseg.data import rle

shapes = npst.array_shapes(min_dims=2, max_dims=2, max_side=24)
masks = npst.arrays(np.uint8, shapes, elements=st.integers(0, 1))


@given(masks)
def test_decode_restores_what_encode_wrote(mask: np.ndarray) -> None:
    decoded = rle.decode(rle.encode(mask), *mask.shape)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, mask)


def test_counts_from_one_in_column_major_order() -> None:
    mask = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]], np.uint8)
    assert rle.encode(mask) == "2 2 7 1 9 2"
    np.testing.assert_array_equal(rle.decode("2 2 7 1 9 2", 4, 3), mask)


def test_any_positive_value_is_foreground() -> None:
    assert rle.encode(np.array([[0, 255], [0, 255]], np.uint8)) == "3 2"


def test_an_empty_mask_is_an_empty_string() -> None:
    assert rle.encode(np.zeros((3, 4), np.uint8)) == ""
    np.testing.assert_array_equal(rle.decode(" ", 3, 4), np.zeros((3, 4)))


@pytest.mark.parametrize("number", [1, 127, 128, 40_000])
def test_any_number_of_masks_unite(number: int) -> None:
    np.testing.assert_array_equal(rle.union(["2 3"] * number + ["6 1"], 3, 2), [[0, 1], [1, 0], [1, 1]])


def test_runs_may_touch_and_be_in_any_order() -> None:
    np.testing.assert_array_equal(rle.decode("5 2 1 2 3 1", 3, 2), [[1, 0], [1, 1], [1, 1]])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 2 3", "in pairs, but there are 3 numbers"),
        ("1 2.0", "'2.0', which is not an integer"),
        ("one 2", "'one'"),
        ("1_0 2", "'1_0'"),
        ("1 " + "9" * 30, "not an integer"),
        ("0 2", "run '0 2' starts below 1"),
        ("-3 2", "starts below 1"),
        ("3 0", "run '3 0' has a length below 1"),
        ("5 3", "run '5 3' ends beyond the 6 pixels of a 2x3 frame"),
        ("100 1", "beyond"),
        ("1 " + "9" * 18, "beyond"),
        ("1 3 3 2", "run '3 2' overlaps"),
        ("3 2 1 3", "overlaps"),
        ("2 1 2 1", "overlaps"),
    ],
)
def test_says_what_is_wrong_with_invalid_text(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rle.decode(text, height=3, width=2)
