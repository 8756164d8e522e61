"""Atypicality of masks, and the gain from selective prediction."""

import numpy as np
import pytest

from nerveseg.evaluation import selective
from nerveseg.model import plausibility
from nerveseg.model.spec import Plausibility

HEIGHT, WIDTH = 120, 160


def ellipse(row: float = 60, column: float = 80, a: float = 24, b: float = 14, height: int = HEIGHT) -> np.ndarray:
    scale = height / HEIGHT
    rows, columns = np.mgrid[:height, : round(WIDTH * scale)] / scale
    return (((rows - row) / b) ** 2 + ((columns - column) / a) ** 2 <= 1).astype(np.uint8)


def training_masks(number: int = 200) -> list[np.ndarray]:
    random = np.random.default_rng(70)
    found = []
    for _ in range(number):
        size = random.normal(1, 0.1)
        mask = ellipse(random.normal(60, 6), random.normal(80, 8), 24 * size, 14 * size)
        mask[:, : round(random.uniform(50, 60))] = 0  # real outlines are not ellipses
        found.append(mask)
    return found


TRAINING = plausibility.fit(training_masks())


def atypicality(mask: np.ndarray) -> float:
    return plausibility.atypicality(mask, TRAINING)


def test_five_percent_of_the_training_masks_are_above_one_half() -> None:
    found = np.array([atypicality(mask) for mask in training_masks()])
    assert np.mean(found > 0.5) == pytest.approx(0.05, abs=0.01)
    assert ((found >= 0) & (found < 1)).all()


@pytest.mark.parametrize(
    "odd",
    [
        ellipse(column=140),
        ellipse(row=20),
        ellipse(a=6, b=4),
        ellipse(a=70, b=45),
        np.maximum(ellipse(column=60, a=8), ellipse(column=100, a=8)),
        np.pad(np.ones((40, 60), np.uint8), ((40, 40), (50, 50))) * (np.indices((HEIGHT, WIDTH)).sum(0) % 24 < 12),
    ],
    ids=["beside", "above", "small", "large", "two parts", "stripes"],
)
def test_masks_unlike_the_training_masks_are_atypical(odd: np.ndarray) -> None:
    assert atypicality(odd.astype(np.uint8)) > 0.5 > atypicality(ellipse())


def test_atypicality_grows_with_distance_and_stays_below_one() -> None:
    found = [atypicality(ellipse(column=column)) for column in (80, 100, 120, 135)]
    assert found == sorted(found)
    assert len(set(found)) == 4
    assert found[-1] < 1


def test_a_perfect_ellipse_is_not_atypical() -> None:
    assert atypicality(ellipse()) < 0.1


def test_size_in_pixels_does_not_matter() -> None:
    assert atypicality(ellipse(column=110, height=2 * HEIGHT)) == pytest.approx(
        atypicality(ellipse(column=110)), abs=0.02
    )


def test_an_empty_mask_is_as_atypical_as_it_is_rare() -> None:
    empty = np.zeros((HEIGHT, WIDTH), np.uint8)
    assert atypicality(empty) == 1
    few = plausibility.fit([*training_masks(19), empty])
    assert plausibility.atypicality(empty, few) == pytest.approx(0.5), "5 %, as for masks"
    many = plausibility.fit([*training_masks(20), *[empty] * 30])
    assert plausibility.atypicality(empty, many) < 0.1


def test_after_training_without_nerves_every_nerve_is_atypical() -> None:
    none = plausibility.fit([np.zeros((HEIGHT, WIDTH), np.uint8)])
    assert plausibility.atypicality(ellipse(), none) == 1
    assert plausibility.atypicality(np.zeros((HEIGHT, WIDTH), np.uint8), none) < 0.05


def test_identical_masks_have_finite_statistics() -> None:
    alike = plausibility.fit([ellipse()] * 3)
    assert plausibility.atypicality(ellipse(), alike) == pytest.approx(0, abs=1e-6)
    assert 0.5 < plausibility.atypicality(ellipse(row=62), alike) <= 1


def test_it_can_be_stored_as_json() -> None:
    again = Plausibility.model_validate_json(TRAINING.model_dump_json())
    assert plausibility.atypicality(ellipse(column=100), again) == atypicality(ellipse(column=100))


def test_a_model_without_plausibility_gives_nan() -> None:
    assert np.isnan(plausibility.atypicality(ellipse(), None))


def test_risk_falls_if_atypicality_is_informative() -> None:
    dice = np.array([0.9, 0.1, 0.8, 0.2, 0.7])
    curve = selective.risk_coverage(1 - dice, dice)
    assert curve["coverage"].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert curve["risk"].tolist() == pytest.approx([0.1, 0.15, 0.2, 0.35, 0.46])
    worst_first = selective.risk_coverage(dice, dice)
    assert worst_first["risk"].iloc[-1] == pytest.approx(0.46)
    assert worst_first["risk"].mean() > curve["risk"].mean()


def test_the_order_of_frames_with_equal_atypicality_does_not_matter() -> None:
    for dice in ([1.0, 0.0, 0.5], [0.0, 1.0, 0.5]):
        curve = selective.risk_coverage(np.array([0.2, 0.2, 0.9]), np.array(dice))
        assert curve["risk"].tolist() == pytest.approx([0.5, 0.5, 0.5])


def test_frames_without_a_dice_are_left_out() -> None:
    assert len(selective.risk_coverage(np.array([0.1, 0.2]), np.array([np.nan, 0.5]))) == 1


def test_the_least_atypical_frames_are_kept() -> None:
    assert selective.kept(np.array([0.9, 0.1, 0.5, 0.3, 0.2])).tolist() == [0, 1, 1, 1, 1]
    assert selective.kept(np.array([0.9])).tolist() == [1]


def test_ties_at_the_cut_share_the_remaining_weight() -> None:
    assert selective.kept(np.array([0.9, 0.1, 0.9, 0.1, 0.9])).tolist() == pytest.approx([2 / 3, 1, 2 / 3, 1, 2 / 3])


def test_frames_with_unknown_atypicality_are_left_out() -> None:
    assert selective.kept(np.array([np.nan, 0.1, 0.2])).tolist() == [0, 1, 1]
    assert selective.kept(np.full(3, np.nan)).tolist() == [0, 0, 0]
