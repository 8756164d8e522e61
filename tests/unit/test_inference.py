"""From frames to masks."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.errors import NervesegError
from nerveseg.evaluation import inference
from nerveseg.model.inference import BATCH, Segmenter
from nerveseg.model.network import build
from nerveseg.model.spec import ModelSpec

SIZES = [(64, 64), (48, 80), (100, 33), (200, 260)]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = ModelSpec(architecture="Unet", encoder="resnet18", height=64, width=64, threshold=0.5)
    return Segmenter(build(spec), spec)


def frames(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, 256, SIZES[number % len(SIZES)]).astype(np.uint8) for number in range(count)]


def test_probabilities_and_masks_have_the_size_of_their_frame(segmenter: Segmenter) -> None:
    given = frames(5)
    found = segmenter.probabilities(given)
    assert [probability.shape for probability in found] == [frame.shape for frame in given]
    for probability in found:
        assert probability.dtype == np.float32
        assert 0 <= probability.min() < probability.max() <= 1
        mask = segmenter.mask(probability)
        assert (mask.dtype, mask.shape) == (np.uint8, probability.shape)
        assert set(np.unique(mask)) <= {0, 1}


def test_results_do_not_depend_on_other_frames_and_are_in_order(segmenter: Segmenter) -> None:
    given = frames(BATCH + 3)
    together = segmenter.probabilities(given)
    assert len(together) == BATCH + 3
    for number in (0, 1, BATCH - 1, BATCH, BATCH + 2):
        (alone,) = segmenter.probabilities([given[number]])
        np.testing.assert_allclose(together[number], alone, atol=1e-5)
    assert not np.allclose(together[0], together[len(SIZES)], atol=1e-3), "frames of one size differ"


def test_no_frames_give_no_results(segmenter: Segmenter) -> None:
    assert segmenter.probabilities([]) == []


def test_frames_may_be_read_only_views(segmenter: Segmenter) -> None:
    (frame,) = frames(1)
    wide = np.repeat(frame, 2, axis=1)
    wide.flags.writeable = False
    np.testing.assert_array_equal(segmenter.probabilities([wide[:, ::2]])[0], segmenter.probabilities([frame])[0])


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_a_pixel_is_nerve_from_the_threshold_up(threshold: float, segmenter: Segmenter) -> None:
    spec = segmenter.spec.model_copy(update={"threshold": threshold})
    probability = np.array([[0.0, 0.2, 0.3], [0.5, 0.79, 0.81]], np.float64)
    mask = Segmenter(segmenter.network, spec).mask(probability)
    np.testing.assert_array_equal(mask, [[value >= threshold for value in row] for row in probability])


class Nine(torch.nn.Module):
    """A network that returns its input: the logit of a pixel is nine times its normalised brightness."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 9 * inputs


def test_masks_are_where_the_network_sees_the_nerve() -> None:
    """A bright rectangle is found at its position for any frame size."""
    spec = ModelSpec(architecture="Unet", encoder="resnet18", height=64, width=96, threshold=0.5)
    for height, width in SIZES:
        frame = np.zeros((height, width), np.uint8)
        inside = np.s_[height // 4 : height // 2, width // 2 : width * 3 // 4]
        frame[inside] = 255
        (probability,) = Segmenter(Nine(), spec).probabilities([frame])
        mask = Segmenter(Nine(), spec).mask(probability)
        truth = frame > 0
        assert (mask & truth).sum() / (mask | truth).sum() > 0.85


def test_a_network_that_has_diverged_is_a_clear_error(segmenter: Segmenter, tmp_path: Path) -> None:
    diverged = build(segmenter.spec)
    with torch.no_grad():
        next(diverged.parameters()).fill_(torch.nan)
    with Writer(tmp_path) as writer:
        for frame in frames(2):
            writer.append(f"{frame.shape[1]}.png", "1", None, frame, np.zeros_like(frame))
        writer.write_index(pd.Series(["test"] * 2), np.arange(2))
    with pytest.raises(NervesegError, match=r"The network returns NaN on 64\.png.*Lower train\.learning_rate"):
        inference.histograms(FrameStore.open(tmp_path), np.arange(2), Segmenter(diverged, segmenter.spec))
