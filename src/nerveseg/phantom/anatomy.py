"""The anatomy of one subject, drawn at random."""

import math
from dataclasses import dataclass

import numpy as np

from nerveseg.params import PhantomParams
from nerveseg.phantom import noise
from nerveseg.phantom.geometry import ASPECT, Oval


@dataclass(frozen=True)
class Anatomy:
    """The anatomy of one subject."""

    skin: float  # depth of its lower edge
    fat: float
    deep_fascia: float
    floor: float  # depth of the prevertebral fascia
    belly: tuple[float, float, float]  # of the superficial muscle: x of its centre, half width, thickness
    muscles: list[Oval]
    arteries: list[Oval]
    veins: list[Oval]
    nerve: Oval
    fascicles: list[Oval]
    bone: Oval
    phases: list[float]  # of the movements during the sweep, radians
    contact: tuple[float, float]  # dB lost at the left and right edge, where the probe presses less firmly
    gain: float  # dB
    nerve_frames: range  # frames that show the nerve, counted from 1
    fields: dict[str, noise.Pair]  # each pair is blended as the probe moves


def draw(subject: int, params: PhantomParams) -> Anatomy:
    """The anatomy of a subject (counted from 1), determined by its number and `params.seed`."""
    rng = noise.generator(params.seed, subject)
    side = 1 if rng.integers(2) else -1  # on which the midline of the neck lies
    skin = rng.uniform(0.04, 0.06)
    fat = skin + rng.uniform(0.03, 0.08)
    thickness = rng.uniform(0.05, 0.1)
    deep_fascia = fat + rng.uniform(0.02, 0.04)

    nerve = _nerve(rng, deep_fascia + thickness)

    def oval(dx: float, dy: float, a: tuple[float, float], b: tuple[float, float], waves: float = 0.06) -> Oval:
        return Oval(
            nerve.x + side * (dx + rng.uniform(-0.04, 0.04)),
            nerve.y + dy + rng.uniform(-0.04, 0.04),
            rng.uniform(*a),
            rng.uniform(*b),
            rng.uniform(-0.3, 0.3),
            _waves(rng, waves),
        )

    muscles = [
        oval(-0.42, 0.1, (0.2, 0.26), (0.1, 0.14)),
        oval(0.4, 0.14, (0.2, 0.26), (0.1, 0.15)),
        oval(0.05, 0.34, (0.2, 0.28), (0.07, 0.1)),
    ]
    arteries = [
        oval(-0.55, 0.02, (0.05, 0.07), (0.05, 0.07), 0.03),
        oval(0.12, 0.3, (0.022, 0.03), (0.022, 0.03), 0.05),
    ]
    veins = [oval(-0.5, -0.18, (0.07, 0.11), (0.025, 0.04)), oval(0.45, -0.2, (0.02, 0.03), (0.014, 0.02))]
    return Anatomy(
        skin=skin,
        fat=fat,
        deep_fascia=deep_fascia,
        floor=rng.uniform(0.7, 0.85),
        belly=(nerve.x + side * rng.uniform(-0.5, -0.1), rng.uniform(0.55, 0.8), thickness),
        muscles=muscles,
        arteries=arteries,
        veins=veins,
        nerve=nerve,
        fascicles=_fascicles(rng),
        bone=oval(0.3, 0.62, (0.2, 0.3), (0.08, 0.12)),
        phases=rng.uniform(0, 2 * math.pi, 8).tolist(),
        contact=(rng.uniform(0, 10), rng.uniform(0, 10)),
        gain=rng.uniform(-2, 2),
        nerve_frames=_nerve_frames(subject, params, at_start=bool(rng.integers(2))),
        fields={
            "bend": noise.pair(rng, 0.22, 0.16),
            "fascia": noise.pair(rng, 0.17, 0.035),
            "sheet": noise.pair(rng, 0.12, 0.05),
            "streak": noise.pair(rng, 0.04, 0.006),
            "patch": noise.pair(rng, 0.14, 0.09),
            "fibre": noise.pair(rng, 0.022, 0.004),
            "wiggle": noise.pair(rng, 0.05, 0.02),
        },
    )


def _nerve(rng: np.random.Generator, top: float) -> Oval:
    """Just below `top`, or a little deeper."""
    area, aspect, tilt = rng.uniform(0.044, 0.064) * ASPECT, rng.uniform(1.35, 1.9), rng.uniform(-0.6, 0.6)
    a, b = math.sqrt(area * aspect / math.pi), math.sqrt(area / aspect / math.pi)
    reach = math.hypot(a * math.sin(tilt), b * math.cos(tilt))
    y = top + reach + rng.uniform(0.0, 0.08)
    return Oval(ASPECT * rng.uniform(0.34, 0.66), y, a, b, tilt, _waves(rng, 0.045))


def _fascicles(rng: np.random.Generator) -> list[Oval]:
    """Two or three in a row, in the nerve's own coordinates."""
    count = int(rng.integers(2, 4))
    return [
        Oval(
            (place - (count - 1) / 2) * 1.45 / count + rng.uniform(-0.05, 0.05),
            rng.uniform(-0.15, 0.15),
            0.62 / count + rng.uniform(-0.02, 0.04),
            rng.uniform(0.45, 0.62),
            rng.uniform(-0.3, 0.3),
            _waves(rng, 0.09),
        )
        for place in range(count)
    ]


def _waves(rng: np.random.Generator, height: float) -> tuple[complex, complex]:
    two, three = (height * np.clip(rng.standard_normal(2), -1.5, 1.5) for _ in range(2))
    return complex(*two), complex(*three)


def _nerve_frames(subject: int, params: PhantomParams, at_start: bool) -> range:
    """The frames with a nerve. Those without are spread evenly over the subjects, at one end of each sweep."""
    total = round(params.empty_share * params.subjects * params.frames_per_subject)
    empty = subject * total // params.subjects - (subject - 1) * total // params.subjects
    first = 1 + empty if at_start else 1
    return range(first, first + params.frames_per_subject - empty)
