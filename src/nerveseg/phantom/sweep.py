"""The frames and masks of one subject, as the probe moves."""

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from nerveseg.arrays import Frame, Mask
from nerveseg.params import PhantomParams
from nerveseg.phantom import anatomy as anatomies
from nerveseg.phantom.acoustics import insonify, scatterers
from nerveseg.phantom.anatomy import Anatomy
from nerveseg.phantom.geometry import ASPECT, grid
from nerveseg.phantom.tissue import build, sample_fields

CYCLE = 48  # frames in which the probe slides back and forth once
HEARTBEAT = 7  # frames
DYNAMIC_RANGE = 55.0  # dB between black and white
SMALLEST_SIDE = 192  # smaller frames are simulated at a multiple of their size
SIDE_BORDER = 0.05  # units simulated left and right of the frame, so that the blur does not wrap around


def sweep(subject: int, params: PhantomParams) -> list[tuple[Frame, Mask]]:
    """The frames of one subject (counted from 1): a slow sweep that reaches the nerve late or leaves it early.

    Returns:
        (frame, mask) pairs, both uint8 of shape (height, width): 0 to 255, and 0 or 1. The mask is the nerve bundle
        with its rim; it covers 3 to 8 % of the frame and does not touch the border, or it is empty.
    """
    anatomy = anatomies.draw(subject, params)
    return [_frame(anatomy, subject, number, params) for number in range(1, params.frames_per_subject + 1)]


def _frame(anatomy: Anatomy, subject: int, number: int, params: PhantomParams) -> tuple[Frame, Mask]:
    sway = [math.sin(2 * math.pi * number / CYCLE + start) for start in anatomy.phases]
    moved = _move(anatomy, number, sway)
    zoom = math.ceil(SMALLEST_SIDE / min(params.height, params.width))
    height, width = zoom * params.height, zoom * params.width
    border = math.ceil(SIDE_BORDER * width / ASPECT)
    x, y = grid(height, width, border)
    fields = sample_fields(anatomy, x - 0.05 * sway[0], y * (1 - 0.03 * sway[1]), 0.6 * sway[7])
    tissue = build(moved, fields, x, y, _visibility(number, anatomy.nerve_frames))
    decibels = insonify(tissue, anatomy, x, y, scatterers(params.seed, subject, number, x.shape))[:, border:-border]
    grey = np.clip(255 * (1 + decibels / DYNAMIC_RANGE), 0, 255)
    frame = np.round(cv2.resize(grey, (params.width, params.height), interpolation=cv2.INTER_AREA)).astype(np.uint8)
    if number not in anatomy.nerve_frames:
        return frame, np.zeros_like(frame)
    distance, _ = moved.nerve.outline(*grid(params.height, params.width))
    return frame, (distance <= 0).astype(np.uint8)


def _move(anatomy: Anatomy, number: int, sway: Sequence[float]) -> Anatomy:
    """The anatomy in one frame: the nerve sways with the probe, and the vessels pulsate."""
    nerve, pulse = anatomy.nerve, 1 + 0.04 * math.sin(2 * math.pi * number / HEARTBEAT)
    return replace(
        anatomy,
        nerve=replace(
            nerve,
            x=nerve.x + 0.05 * sway[0] + 0.02 * sway[2],
            y=nerve.y + 0.015 * sway[1] + 0.015 * sway[3],
            a=nerve.a * (1 + 0.05 * sway[4]),
            b=nerve.b * (1 + 0.05 * sway[5]),
            tilt=nerve.tilt + 0.1 * sway[6],
        ),
        arteries=[replace(artery, a=artery.a * pulse, b=artery.b * pulse) for artery in anatomy.arteries],
        veins=[replace(vein, b=vein.b * (2 - pulse) ** 3) for vein in anatomy.veins],
    )


def _visibility(number: int, nerve_frames: range) -> float:
    """How much of the nerve shows, 0 to 1; a trace of it in the frame next to those that show it."""
    if number in nerve_frames:
        return 1.0
    return 0.2 if number + 1 in nerve_frames or number - 1 in nerve_frames else 0.0
