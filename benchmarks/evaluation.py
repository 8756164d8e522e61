"""Seconds of an evaluation without the network, compared with their limits: 629 frames of 580x420 pixels.

The frames are from the phantom, with 35 subjects; instead of running a network, the true mask is shifted, blurred and
sometimes faint. Prints the seconds for fitting the training masks, for scoring, for label conflicts and their ceiling,
for the summary with 10,000 resamples and for the report's frames and charts, then for one interval, and their share of
the limits; and the size of the report. Frames are in clusters of up to 24, larger than most real ones. Creating the
phantom takes a few minutes, which are not counted.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from nerveseg.data.frame_store import FrameStore, Writer
from nerveseg.evaluation import baselines, calibration, conflicts, figures, scores
from nerveseg.evaluation.bootstrap import SubjectBootstrap
from nerveseg.evaluation.results import Metrics
from nerveseg.model import plausibility
from nerveseg.params import load
from nerveseg.phantom.sweep import sweep
from nerveseg.report import page
from nerveseg.report import sections as report

FRAMES, SUBJECTS = 629, 35
EVALUATION_LIMIT, INTERVAL_LIMIT = 60, 3  # seconds
REPORT_LIMIT = 8 * 2**20  # bytes
PER_CLUSTER = 24
ALL_BITS = 256  # all frames of a cluster count as near-duplicates: the worst case


def synthetic(folder: Path) -> FrameStore:
    """The phantom's frames, half of them in the training split."""
    params = load().phantom.model_copy(
        update={"subjects": SUBJECTS, "frames_per_subject": -(-FRAMES // SUBJECTS), "height": 420, "width": 580}
    )
    with Writer(folder) as writer:
        for subject in range(1, SUBJECTS + 1):
            for number, (frame, mask) in enumerate(sweep(subject, params)):
                writer.append(f"{subject}_{number}.png", str(subject), None, frame, mask)
        count = len(writer.frames())
        writer.write_index(pd.Series(np.where(np.arange(count) % 2, "train", "test")), np.arange(count) // PER_CLUSTER)
    return FrameStore.open(folder)


def probability(truth: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Probabilities that a network might predict for a frame: float32 (H, W)."""
    shift = np.float32([[1, 0, random.normal(0, 8)], [0, 1, random.normal(0, 8)]])
    moved = cv2.warpAffine(truth.astype(np.float32), shift, truth.shape[::-1])
    return np.clip(cv2.GaussianBlur(moved, (0, 0), 6) * random.uniform(0.4, 1.1), 0.02, 0.98)


@contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - begun


def evaluate(store: FrameStore) -> dict[str, float]:
    """Seconds of each part."""
    params = load().evaluate
    random = np.random.default_rng(0)
    seconds: dict[str, float] = {}
    rows = range(FRAMES)
    probabilities = [probability(store.mask(row), random) for row in rows]
    with timed("prior and plausibility", seconds):
        priors = baselines.priors(store, params.empty)
        training = plausibility.fit(store.mask(row) for row in store.rows("train"))
    with timed("scores", seconds):
        found = [
            {
                "row": row,
                **store.index.loc[row, ["image", "subject", "cluster", "height", "width"]],
                **scores.of_frame(each, (each >= 0.5).astype(np.uint8), store.mask(row), priors, training, params),
            }
            for row, each in zip(rows, probabilities, strict=True)
        ]
        histograms = [
            calibration.histogram(each, store.mask(row)) for row, each in zip(rows, probabilities, strict=True)
        ]
        scored = scores.Scores(pd.DataFrame(found), np.stack(histograms))
    with timed("label conflicts", seconds):
        pairs = conflicts.find(store, ALL_BITS)
        ceiling = conflicts.summary(store, np.array(rows), pairs, params, ALL_BITS)
    with timed("summary with all intervals", seconds):
        sweep = calibration.sweep(scored.histograms, params.empty)
        summary = Metrics.model_validate({**scores.summary(scored, sweep, params), "ceiling": ceiling})
    with timed("report", seconds):
        sections = [
            report.summary(summary, params, ""),
            report.subjects(scored.table, summary),
            report.subject_table(scored.table, summary),
            report.reliability(scored, summary),
            report.thresholds(sweep, 0.5, summary),
            report.selective_prediction(scored.table, summary),
            report.frames(store, scored.table, params),
            report.empty_rules(summary),
            report.label_conflicts(store, scored.table, pairs, summary),
        ]
        drawn = page.render("Benchmark", "", sections)
        size = len(drawn.html.encode()) + sum(map(len, drawn.frames.values()))
    print(f"report: {size / 2**20:.2f} MiB, {size / REPORT_LIMIT:.0%} of the limit of {REPORT_LIMIT / 2**20:g} MiB")
    dice = summary.measured("test.dice")
    print(f"Dice {figures.with_interval(dice.value, dice.interval, 3)}")
    with timed("one interval", seconds):
        SubjectBootstrap(scored.table["subject"], 10_000, 0).mean(scored.table["dice"].to_numpy())
    return seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        seconds = evaluate(synthetic(Path(folder)))
    for name, taken in seconds.items():
        print(f"{name}: {taken:.2f} s")
    interval = seconds.pop("one interval")
    whole = sum(seconds.values())
    print(f"{FRAMES} frames: {whole:.1f} s, {whole / EVALUATION_LIMIT:.0%} of the limit of {EVALUATION_LIMIT} s")
    print(f"10,000 resamples: {interval:.2f} s, {interval / INTERVAL_LIMIT:.0%} of the limit of {INTERVAL_LIMIT} s")


if __name__ == "__main__":
    main()
