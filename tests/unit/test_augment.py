"""Augmentation: depends only on the seed, and is the same for frame and mask."""

import numpy as np
import pytest

from nerveseg.data.augment import Augmentation

SEEDS = range(40)


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A dark, speckled frame with one bright, off-centre rectangle, and the mask of that rectangle."""
    frame = np.random.default_rng(0).integers(20, 60, (96, 128)).astype(np.uint8)
    mask = np.zeros_like(frame)
    mask[20:50, 30:70] = 1
    frame[mask == 1] = 220
    return frame, mask


def test_none_does_not_change_frames(pair: tuple[np.ndarray, np.ndarray]) -> None:
    frame, mask = Augmentation("none")(*pair, seed=3)
    np.testing.assert_array_equal(frame, pair[0])
    np.testing.assert_array_equal(mask, pair[1])


def test_soft_depends_only_on_the_seed(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = Augmentation("soft"), Augmentation("soft")
    forwards = [first(*pair, seed=seed) for seed in SEEDS]
    np.random.seed(9)
    backwards = [second(*pair, seed=seed) for seed in reversed(SEEDS)][::-1]
    for (frame, mask), (other_frame, other_mask) in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(frame, other_frame)
        np.testing.assert_array_equal(mask, other_mask)
    assert len({frame.tobytes() for frame, _ in forwards}) >= len(SEEDS) * 0.8


def test_soft_keeps_shape_and_type_and_does_not_modify_its_input(pair: tuple[np.ndarray, np.ndarray]) -> None:
    for array in pair:
        array.flags.writeable = False
    before = [array.copy() for array in pair]
    for seed in SEEDS:
        frame, mask = Augmentation("soft")(*pair, seed=seed)
        assert (frame.shape, frame.dtype) == ((96, 128), np.uint8)
        assert (mask.shape, mask.dtype) == ((96, 128), np.uint8)
        assert set(np.unique(mask)) == {0, 1}
    for array, copy in zip(pair, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_the_mask_moves_with_the_frame(pair: tuple[np.ndarray, np.ndarray]) -> None:
    soft = Augmentation("soft")
    moved = 0
    for seed in SEEDS:
        frame, mask = soft(*pair, seed=seed)
        bright, true = frame > 140, mask == 1
        assert (bright & true).sum() / (bright | true).sum() > 0.9
        moved += (true & (pair[1] == 1)).sum() < 0.5 * true.sum()
    assert moved > 5, "flips and shifts move it"


def test_soft_never_turns_a_frame_upside_down(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert all(np.argwhere(Augmentation("soft")(*pair, seed=seed)[1]).mean(axis=0)[0] < 48 for seed in SEEDS)


def test_the_changes_of_the_card_are_independent(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Each of the two flips, the affine transform and the change in brightness applies to half of the frames."""
    card = Augmentation("card")
    happened = []
    for seed in range(400):
        frame, mask = card(*pair, seed=seed)
        row, column = np.argwhere(mask).mean(axis=0)
        moved = mask.sum() != pair[1].sum()
        brighter = np.median(frame[mask == 1]) != 220
        happened.append((row > 48, column > 64, moved, brighter))
    table = np.array(happened, float)
    np.testing.assert_allclose(table.mean(axis=0), 0.5, atol=0.1)
    np.testing.assert_allclose(np.corrcoef(table.T), np.eye(4), atol=0.2)  # 4 standard errors


def test_the_changes_of_soft_are_small(pair: tuple[np.ndarray, np.ndarray]) -> None:
    changed = [Augmentation("soft")(*pair, seed=seed) for seed in SEEDS]
    areas = np.array([mask.sum() for _, mask in changed]) / pair[1].sum()
    assert 0.78 < areas.min() < 0.95
    assert 1.05 < areas.max() < 1.24
    means = np.array([frame.mean() for frame, _ in changed])
    assert 5 < np.abs(means - pair[0].mean()).max() < 60
