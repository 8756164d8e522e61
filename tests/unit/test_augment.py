"""Augmentation: depends only on the seed, and is the same for frame and mask."""

import json
import random
import re
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest

from nerveseg.data.augment import Augmentation, BeamShadow, Bend, TimeGain
from nerveseg.errors import NervesegError
from nerveseg.params import LEVELS

Pair = tuple[np.ndarray, np.ndarray]

SEEDS = range(40)


@pytest.fixture
def pair() -> Pair:
    """A dark, speckled frame with one bright, off-centre rectangle, and the mask of that rectangle."""
    frame = np.random.default_rng(0).integers(20, 60, (96, 128)).astype(np.uint8)
    mask = np.zeros_like(frame)
    mask[20:50, 30:70] = 1
    frame[mask == 1] = 220
    return frame, mask


def test_none_does_not_change_frames(pair: Pair) -> None:
    frame, mask = Augmentation("none")(*pair, seed=3)
    np.testing.assert_array_equal(frame, pair[0])
    np.testing.assert_array_equal(mask, pair[1])


def test_the_changes_of_the_card_are_independent(pair: Pair) -> None:
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


def test_the_changes_of_soft_are_small(pair: Pair) -> None:
    changed = [Augmentation("soft")(*pair, seed=seed) for seed in SEEDS]
    areas = np.array([mask.sum() for _, mask in changed]) / pair[1].sum()
    assert 0.78 < areas.min() < 0.95
    assert 1.05 < areas.max() < 1.24
    means = np.array([frame.mean() for frame, _ in changed])
    assert 5 < np.abs(means - pair[0].mean()).max() < 60


CHANGING = [level for level in LEVELS if level != "none"]


@pytest.mark.parametrize("level", CHANGING)
class TestEveryLevel:
    def test_depends_only_on_the_seed(self, level: str, pair: Pair) -> None:
        first, second = Augmentation(level), Augmentation(level)
        forwards = [first(*pair, seed=seed) for seed in SEEDS]
        np.random.seed(9)
        backwards = [second(*pair, seed=seed) for seed in reversed(SEEDS)][::-1]
        for (frame, mask), (other_frame, other_mask) in zip(forwards, backwards, strict=True):
            np.testing.assert_array_equal(frame, other_frame)
            np.testing.assert_array_equal(mask, other_mask)
        assert len({frame.tobytes() for frame, _ in forwards}) >= len(SEEDS) * 0.8

    def test_keeps_shape_and_type_and_does_not_modify_its_input(self, level: str, pair: Pair) -> None:
        before = [array.copy() for array in pair]
        for array in pair:
            array.flags.writeable = False
        for seed in SEEDS:
            for changed in Augmentation(level)(*pair, seed=seed):
                assert (changed.shape, changed.dtype) == ((96, 128), np.uint8)
            assert set(np.unique(changed)) == {0, 1}
        for array, copy in zip(pair, before, strict=True):
            np.testing.assert_array_equal(array, copy)

    def test_moves_the_mask_with_the_frame(self, level: str, pair: Pair) -> None:
        overlaps = []
        for seed in SEEDS:
            frame, mask = Augmentation(level)(*pair, seed=seed)
            bright = cv2.medianBlur(frame, 5) > 110
            overlaps.append((bright & (mask == 1)).sum() / (bright | (mask == 1)).sum())
        assert np.median(overlaps) > 0.9

    def test_turns_frames_upside_down_only_if_it_says_so(self, level: str, pair: Pair) -> None:
        augmentation = Augmentation(level)
        centres = np.array([np.argwhere(augmentation(*pair, seed=seed)[1]).mean(axis=0) for seed in SEEDS])
        assert (centres[:, 0] > 54).any() == ("vertical" in augmentation.flips)
        assert (centres[:, 1] > 70).any() == ("horizontal" in augmentation.flips)


def test_only_the_card_has_vertical_flips() -> None:
    flips = {level: Augmentation(level).flips for level in LEVELS}
    assert flips == {"none": (), "card": ("horizontal", "vertical")} | dict.fromkeys(
        ("soft", "medium", "strong"), ("horizontal",)
    )


def test_the_reference_says_what_a_level_has_and_how_often() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    table = text.partition("| | `card` | `soft` | `medium` | `strong` |\n")[2].partition("\n\n")[0]
    rows = {first: cells for _, first, *cells, _ in (line.split("|") for line in table.splitlines())}
    kinds = {
        "horizontal": A.HorizontalFlip,
        "vertical": A.VerticalFlip,
        "affine": A.Affine,
        "bending": Bend,
        "brightness": A.RandomBrightnessContrast,
        "gamma": A.RandomGamma,
        "time gain": TimeGain,
        "speckle": A.MultiplicativeNoise,
        "shadow": BeamShadow,
        "cut-out": A.CoarseDropout,
        "blur": A.GaussianBlur,
    }
    for level, column in zip(CHANGING, range(4), strict=True):
        documented = {}
        for word, kind in kinds.items():
            (cells,) = [cells for first, cells in rows.items() if first.strip().startswith(word)]
            if share := re.search(r"\[(.+)\]", cells[column]):
                documented[kind] = float(share[1])
        assert {type(each): each.p for each in Augmentation(level).pipeline.transforms} == documented


def test_the_levels_grow(pair: Pair) -> None:
    """Of frames that are not flipped: how far grey levels and outlines are from those of the original."""
    grey, outline = {}, {}
    for level in ("soft", "medium", "strong"):
        augmentation = Augmentation(level)
        augmentation.pipeline.transforms[0].p = 0
        changed = [augmentation(*pair, seed=seed) for seed in range(150)]
        grey[level] = np.mean([np.abs(frame.astype(float) - pair[0]).mean() for frame, _ in changed])
        outline[level] = np.mean([(mask != pair[1]).mean() for _, mask in changed])
    for grows in (grey, outline):
        assert 1.2 * grows["soft"] < grows["medium"] < grows["strong"] / 1.2


def alone(transform: A.BasicTransform, pair: Pair, seed: int) -> Pair:
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    changed = transform(image=pair[0], mask=pair[1])
    return changed["image"], changed["mask"]


def test_gain_changes_brightness_smoothly_over_depth() -> None:
    flat = np.full((96, 128), 100, np.uint8), np.zeros((96, 128), np.uint8)
    profiles = []
    for seed in SEEDS:
        frame, mask = alone(TimeGain(limit=0.2, p=1), flat, seed)
        assert (frame == frame[:, :1]).all(), "the same across the frame"
        assert not mask.any()
        profiles.append(frame.astype(float).mean(axis=1))
    steps = np.abs(np.diff(profiles, axis=1))
    assert steps.max() < 15, "smooth: neighbouring rows differ little"
    assert np.ptp(profiles, axis=1).min() > 10, "and top and bottom differ"
    assert np.mean(profiles) == pytest.approx(100, rel=0.05)


def test_a_shadow_darkens_a_band_below_a_depth_and_leaves_the_mask() -> None:
    bright = np.full((96, 128), 200, np.uint8), np.ones((96, 128), np.uint8)
    for seed in SEEDS:
        frame, mask = alone(BeamShadow(p=1), bright, seed)
        assert mask.all()
        assert (np.diff(frame.astype(int), axis=0) <= 0).all(), "it begins at some depth and goes on below"
        dark = frame[-1] < 170
        assert frame.max() == 200
        assert 0.01 < dark.mean() < 0.3
        assert np.count_nonzero(np.diff(dark.astype(int))) <= 2, "one band along the beams"
        assert np.abs(np.diff(frame[-1].astype(int))).max() < 120, "with soft edges"


@pytest.mark.parametrize("size", [(96, 128), (192, 256)])
def test_bends_are_as_large_at_any_size(size: tuple[int, int]) -> None:
    rows, columns = np.mgrid[: size[0], : size[1]]
    disk = ((rows / size[0] - 0.5) ** 2 + (columns / size[1] - 0.5) ** 2 < 0.2**2).astype(np.uint8)
    overlaps = []
    for seed in range(20):
        frame, mask = alone(Bend(limit=0.02, p=1), (disk * np.uint8(255), disk), seed)
        assert ((frame > 127) != (mask == 1)).mean() < 0.01, "frame and mask alike"
        overlaps.append(2 * (mask & disk).sum() / (mask.sum() + disk.sum()))
    assert 0.9 < np.mean(overlaps) < 0.96


class TestFiles:
    PIPELINE = A.Compose([A.VerticalFlip(p=1), A.OneOf([A.HorizontalFlip(p=0), A.Blur(blur_limit=(3, 3), p=1)], p=0.5)])

    @pytest.mark.parametrize("form", ["json", "yaml"])
    def test_what_albumentations_saves_is_applied(self, form: Any, pair: Pair, tmp_path: Path) -> None:
        path = tmp_path / f"own.{form}"
        A.save(self.PIPELINE, path, form)
        augmentation = Augmentation(str(path))
        augmentation.try_out(96, 128)
        assert augmentation.flips == ("vertical",), "p of the other flip is 0"
        found = [augmentation(*pair, seed=seed) for seed in range(20)]
        assert all((mask == pair[1][::-1]).all() for _, mask in found)
        assert len({frame.tobytes() for frame, _ in found}) == 2, "some are blurred"
        np.testing.assert_array_equal(augmentation(*pair, seed=1)[0], Augmentation(str(path))(*pair, seed=1)[0])

    def test_a_level_can_be_saved_and_changed(self, pair: Pair, tmp_path: Path) -> None:
        A.save(Augmentation("strong").pipeline, tmp_path / "own.json")
        for seed in range(5):
            for found, given in zip(
                Augmentation(str(tmp_path / "own.json"))(*pair, seed), Augmentation("strong")(*pair, seed), strict=True
            ):
                np.testing.assert_array_equal(found, given)

    def test_a_file_of_albumentations_1_is_read(self, pair: Pair, tmp_path: Path) -> None:
        """As its version 1.3 wrote it, with full names of classes and always_apply."""
        flip = {"__class_fullname__": "albumentations.augmentations.geometric.transforms.VerticalFlip"}
        content = {
            "__version__": "1.3.0",
            "transform": {
                "__class_fullname__": "albumentations.core.composition.Compose",
                "p": 1.0,
                "transforms": [flip | {"always_apply": False, "p": 1.0}],
                "bbox_params": None,
                "keypoint_params": None,
                "additional_targets": {},
            },
        }
        (tmp_path / "old.json").write_text(json.dumps(content))
        assert (Augmentation(str(tmp_path / "old.json"))(*pair, seed=0)[1] == pair[1][::-1]).all()

    @pytest.mark.parametrize(
        ("transform", "said"),
        [
            ({"__class_fullname__": "os.system", "command": "true", "p": 1}, "'os.system' is missing, or no transform"),
            ({"__class_fullname__": "HorizontalFlipp", "p": 1}, "'HorizontalFlipp' is missing, or no transform"),
            ({"__class_fullname__": "Blur", "kernel": 3, "p": 1}, "'kernel' are not valid for transform Blur"),
            ({"__class_fullname__": "Blur", "always_apply": True, "p": 0.1}, "'always_apply' are not valid"),
            ({"__class_fullname__": "Blur", "blur_limit": "much", "p": 1}, "blur_limit"),
            ({"__class_fullname__": "Lambda", "__name__": "own", "p": 1}, "non-serializable"),
            (None, "is not a pipeline of albumentations"),
        ],
    )
    def test_what_albumentations_cannot_make_is_refused(self, transform: Any, said: str, tmp_path: Path) -> None:
        (tmp_path / "own.json").write_text(json.dumps({"transform": transform}))
        with pytest.raises(NervesegError, match=re.escape(said)) as caught:
            Augmentation(str(tmp_path / "own.json"))
        assert "own.json" in str(caught.value)

    @pytest.mark.parametrize(("name", "content"), [("own.json", "{"), ("own.yaml", "a: [")])
    def test_a_file_that_is_neither_is_refused(self, name: str, content: str, tmp_path: Path) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(NervesegError, match=f"{name} is not {name[4:].upper()}"):
            Augmentation(str(tmp_path / name))

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(NervesegError, match=r"own\.json cannot be read: No such file"):
            Augmentation(str(tmp_path / "own.json"))

    @pytest.mark.parametrize(
        ("transform", "said"),
        [
            (A.RandomCrop(64, 64, p=0.2), r"makes a uint8 frame of \(64, 64\) from a uint8 one of \(96, 128\)"),
            (A.Normalize(mean=0.5, std=0.5, p=1), "makes a float32 frame"),
            (A.RandomCrop(256, 256, p=1), "fails on a grey frame of 96 x 128 pixels"),
            (A.Affine(translate_percent=0.4, fill_mask=255, p=1), "values above 1"),
        ],
    )
    def test_what_does_not_fit_the_network_is_found_before_training(
        self, transform: A.BasicTransform, said: str, tmp_path: Path
    ) -> None:
        A.save(A.Compose([transform]), tmp_path / "own.json")
        with pytest.raises(NervesegError, match=said):
            Augmentation(str(tmp_path / "own.json")).try_out(96, 128)
