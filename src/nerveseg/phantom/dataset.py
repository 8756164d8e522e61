"""A B-mode ultrasound phantom of the neck: the pipeline can be tried without anybody's data.

It follows the physics in its simplest form. Tissue is a map of diffuse scattering and one of specular interfaces
(fascia, walls, rims). Random scatterers times that map, blurred by a point spread function that widens with depth, make
fully developed speckle (Goodman, "Some fundamental properties of speckle", 1976); attenuation along the beam makes
shadows and posterior enhancement; log compression makes the picture.

Brightness, contrast and grain were matched to the percentiles and the autocorrelation of real neck ultrasound.
Anatomy is described in units of the frame's depth, whatever its size in pixels: y runs from 0 at the skin to 1, x from
0 to `ASPECT`.
"""

import io
import math
import zipfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from nerveseg.arrays import Frame, Mask
from nerveseg.console import progress
from nerveseg.data import rle
from nerveseg.files import replacing
from nerveseg.params import PhantomParams

ASPECT = 580 / 420  # width over depth
FOLDS = 5
CYCLE = 48  # frames in which the probe slides to and fro once
HEARTBEAT = 7  # frames
DYNAMIC_RANGE = 55.0  # dB between black and white
LOOKS = 3  # steered looks compounded into one frame
SCATTERER_LIFE = 4  # frames after which all scatterers have been exchanged
ATTENUATION = 46.0  # dB per unit of depth in soft tissue, there and back
COMPENSATION = 0.84  # share of it that the time gain compensation restores
AXIAL_BLUR = 0.003  # standard deviation of the point spread function along the beam
SMALLEST_SIDE = 192  # smaller frames are simulated at a multiple of their size
FIELD_PIXELS = 250  # per unit, of the noise fields that tissue is made of
FIELD_BORDER = 0.25  # units that they extend beyond the frame
SIDE_BORDER = 0.05  # units simulated left and right of the frame, so that the blur does not wrap around
_Field = npt.NDArray[np.floating]  # over the points of a grid
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same bytes on any day


@dataclass(frozen=True)
class _Oval:
    """An ellipse, tilted by radians, whose outline has two and three waves of some relative height and phase."""

    x: float
    y: float
    a: float
    b: float
    tilt: float
    waves: tuple[complex, complex]

    def axes(self, x: _Field, y: _Field) -> tuple[_Field, _Field]:
        """The points in the oval's own coordinates, in which its outline is roughly the unit circle."""
        cosine, sine = math.cos(self.tilt), math.sin(self.tilt)
        x, y = x - self.x, y - self.y
        return (x * cosine + y * sine) / self.a, (y * cosine - x * sine) / self.b

    def window(self, x: _Field, y: _Field, margin: float) -> tuple[slice, slice]:
        """The rows and columns of a grid that hold the oval and a margin around it."""
        cosine, sine = math.cos(self.tilt), math.sin(self.tilt)
        reach_x = math.hypot(self.a * cosine, self.b * sine) * 1.15 + margin
        reach_y = math.hypot(self.a * sine, self.b * cosine) * 1.15 + margin
        top, bottom = np.searchsorted(y[:, 0], (self.y - reach_y, self.y + reach_y))
        left, right = np.searchsorted(x[0], (self.x - reach_x, self.x + reach_x))
        return slice(top, bottom), slice(left, right)

    def outline(self, x: _Field, y: _Field) -> tuple[_Field, _Field]:
        """Distance from the outline (first order, negative inside) and how squarely it faces the beam, 0 to 1."""
        u, v = self.axes(x, y)
        radius = np.sqrt(u**2 + v**2) + 1e-6
        down, across = v / (radius * self.b), u / (radius * self.a)
        steepness = np.sqrt(down**2 + across**2) + 1e-6
        facing = np.abs(across * math.sin(self.tilt) + down * math.cos(self.tilt)) / steepness
        cosine, sine = u / radius, v / radius
        cosine2, sine2 = cosine**2 - sine**2, 2 * sine * cosine
        cosine3, sine3 = cosine2 * cosine - sine2 * sine, sine2 * cosine + cosine2 * sine
        two, three = self.waves
        edge = 1 + two.real * cosine2 + two.imag * sine2 + three.real * cosine3 + three.imag * sine3
        return (radius / edge - 1) / steepness, facing


@dataclass(frozen=True)
class _Tissue:
    """What the beam meets, float32 of shape (height, width + borders)."""

    diffuse: _Field  # scattering, dB
    specular: _Field  # amplitude of interfaces, 1 being white
    absorption: _Field  # 1 in soft tissue

    def at(self, window: tuple[slice, slice]) -> "_Tissue":
        """A part of it; what is drawn there is drawn in the whole."""
        return _Tissue(self.diffuse[window], self.specular[window], self.absorption[window])


@dataclass(frozen=True)
class _Anatomy:
    """One subject at rest."""

    skin: float  # depth of the lower side
    fat: float
    deep_fascia: float
    floor: float  # depth of the prevertebral fascia
    belly: tuple[float, float, float]  # the superficial muscle: x of its middle, half width, thickness
    muscles: list[_Oval]
    arteries: list[_Oval]
    veins: list[_Oval]
    nerve: _Oval
    fascicles: list[_Oval]
    bone: _Oval
    phases: list[float]  # radians, of the sweep's movements
    contact: tuple[float, float]  # dB lost at the left and the right edge, where the probe rests less firmly
    gain: float  # dB
    nerve_frames: range  # frames, from 1, that the nerve is in
    fields: dict[str, tuple[_Field, _Field]]  # noise; the two of a pair blend as the probe moves


def sweep(subject: int, params: PhantomParams) -> list[tuple[Frame, Mask]]:
    """The frames of one subject (counted from 1): a slow sweep that reaches the nerve late or leaves it early.

    Returns:
        (frame, mask) pairs, both uint8 of shape (height, width): 0 to 255, and 0 or 1. The mask is the nerve bundle
        with its rim; it covers 3 to 8 % of the frame and stays off the border, or is empty.
    """
    anatomy = _anatomy(subject, params)
    return [_frame(anatomy, subject, number, params) for number in range(1, params.frames_per_subject + 1)]


def write(path: Path, params: PhantomParams) -> None:
    """Writes the dataset zip in the layout of `params`; equal params give equal bytes.

    hydrogen-torch: `images/<subject>_<frame>.png` and `train.pq` with the columns image, class_id, rle_mask and fold
    (0 to 4, whole subjects).
    kaggle: `train/<subject>_<frame>.tif` and `train/<subject>_<frame>_mask.tif`, masks 0 or 255.
    """
    with replacing(path) as beside, zipfile.ZipFile(beside, "w") as archive, progress("subjects") as bar:
        rows = []
        for subject in bar.track(range(1, params.subjects + 1), description="Phantom"):
            for number, (frame, mask) in enumerate(sweep(subject, params), start=1):
                name = f"{subject}_{number}"
                if params.layout == "kaggle":
                    _store(archive, f"train/{name}.tif", _encode(".tif", frame))
                    _store(archive, f"train/{name}_mask.tif", _encode(".tif", mask * 255))
                else:
                    _store(archive, f"images/{name}.png", _encode(".png", frame))
                    rows.append((f"{name}.png", "nerve", rle.encode(mask), subject % FOLDS))
        if params.layout == "hydrogen-torch":
            table = io.BytesIO()
            pd.DataFrame(rows, columns=["image", "class_id", "rle_mask", "fold"]).to_parquet(table, index=False)
            _store(archive, "train.pq", table.getvalue())


def _encode(extension: str, image: Frame) -> bytes:
    return cv2.imencode(extension, image)[1].tobytes()


def _store(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), content)


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def _anatomy(subject: int, params: PhantomParams) -> _Anatomy:
    rng = _rng(params.seed, subject)
    side = 1 if rng.integers(2) else -1  # which way the midline of the neck lies
    skin = rng.uniform(0.04, 0.06)
    fat = skin + rng.uniform(0.03, 0.08)
    thickness = rng.uniform(0.05, 0.1)
    deep_fascia = fat + rng.uniform(0.02, 0.04)

    nerve = _nerve(rng, deep_fascia + thickness)

    def oval(dx: float, dy: float, a: tuple[float, float], b: tuple[float, float], waves: float = 0.06) -> _Oval:
        return _Oval(
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
    return _Anatomy(
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
            "bend": _noise_pair(rng, 0.22, 0.16),
            "fascia": _noise_pair(rng, 0.17, 0.035),
            "sheet": _noise_pair(rng, 0.12, 0.05),
            "streak": _noise_pair(rng, 0.04, 0.006),
            "patch": _noise_pair(rng, 0.14, 0.09),
            "fibre": _noise_pair(rng, 0.022, 0.004),
            "wiggle": _noise_pair(rng, 0.05, 0.02),
        },
    )


def _nerve(rng: np.random.Generator, top: float) -> _Oval:
    """As shallow as it fits below `top`, or somewhat deeper."""
    area, aspect, tilt = rng.uniform(0.044, 0.064) * ASPECT, rng.uniform(1.35, 1.9), rng.uniform(-0.6, 0.6)
    a, b = math.sqrt(area * aspect / math.pi), math.sqrt(area / aspect / math.pi)
    reach = math.hypot(a * math.sin(tilt), b * math.cos(tilt))
    y = top + reach + rng.uniform(0.0, 0.08)
    return _Oval(ASPECT * rng.uniform(0.34, 0.66), y, a, b, tilt, _waves(rng, 0.045))


def _fascicles(rng: np.random.Generator) -> list[_Oval]:
    """Two or three in a chain, in the nerve's own coordinates."""
    count = int(rng.integers(2, 4))
    return [
        _Oval(
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
    """The frames with a nerve. Those without are spread evenly over the subjects and lie at one end of the sweep."""
    total = round(params.empty_share * params.subjects * params.frames_per_subject)
    empty = subject * total // params.subjects - (subject - 1) * total // params.subjects
    first = 1 + empty if at_start else 1
    return range(first, first + params.frames_per_subject - empty)


def _noise_pair(rng: np.random.Generator, lateral: float, axial: float) -> tuple[_Field, _Field]:
    return _noise(rng, lateral, axial), _noise(rng, lateral, axial)


def _noise(rng: np.random.Generator, lateral: float, axial: float) -> _Field:
    """A Gaussian random field over the frame and its surroundings, float32 of unit variance, with these blurs."""
    height, width = (round((length + 2 * FIELD_BORDER) * FIELD_PIXELS) for length in (1, ASPECT))
    down, across = np.fft.fftfreq(height, 1 / FIELD_PIXELS), np.fft.rfftfreq(width, 1 / FIELD_PIXELS)
    transfer = np.outer(np.exp(-2 * (math.pi * axial * down) ** 2), np.exp(-2 * (math.pi * lateral * across) ** 2))
    white = rng.standard_normal((height, width), dtype=np.float32)
    field = np.fft.irfft2(np.fft.rfft2(white) * transfer.astype(np.float32), s=(height, width))
    unit: _Field = field / field.std()
    return unit


def _frame(anatomy: _Anatomy, subject: int, number: int, params: PhantomParams) -> tuple[Frame, Mask]:
    phase = 2 * math.pi * number / CYCLE
    sway = [math.sin(phase + start) for start in anatomy.phases]
    nerve = replace(
        anatomy.nerve,
        x=anatomy.nerve.x + 0.05 * sway[0] + 0.02 * sway[2],
        y=anatomy.nerve.y + 0.015 * sway[1] + 0.015 * sway[3],
        a=anatomy.nerve.a * (1 + 0.05 * sway[4]),
        b=anatomy.nerve.b * (1 + 0.05 * sway[5]),
        tilt=anatomy.nerve.tilt + 0.1 * sway[6],
    )
    zoom = math.ceil(SMALLEST_SIDE / min(params.height, params.width))
    height, width = zoom * params.height, zoom * params.width
    border = math.ceil(SIDE_BORDER * width / ASPECT)
    x, y = _grid(height, width, border)
    fields = _tissue_fields(anatomy, x - 0.05 * sway[0], y * (1 - 0.03 * sway[1]), 0.6 * sway[7])
    tissue = _layers(anatomy, fields)
    for muscle in anatomy.muscles:
        _add_muscle(tissue, muscle, fields)
    _add_bone(tissue, anatomy.bone, fields)
    pulse = 1 + 0.04 * math.sin(2 * math.pi * number / HEARTBEAT)
    for artery in anatomy.arteries:
        _add_vessel(tissue, replace(artery, a=artery.a * pulse, b=artery.b * pulse), fields)
    for vein in anatomy.veins:
        _add_vessel(tissue, replace(vein, b=vein.b * (2 - pulse) ** 3), fields)
    visibility = _visibility(number, anatomy.nerve_frames)
    if visibility > 0:
        _add_nerve(tissue, nerve, anatomy.fascicles, visibility, fields, x, y)
    _add_skin(tissue, fields, y)

    decibels = _insonify(tissue, anatomy, x, y, _scatterers(params.seed, subject, number, x.shape))
    decibels = decibels[:, border:-border]
    grey = np.clip(255 * (1 + decibels / DYNAMIC_RANGE), 0, 255)
    frame = np.round(cv2.resize(grey, (params.width, params.height), interpolation=cv2.INTER_AREA)).astype(np.uint8)
    if number not in anatomy.nerve_frames:
        return frame, np.zeros_like(frame)
    distance, _ = nerve.outline(*_grid(params.height, params.width))
    return frame, (distance <= 0).astype(np.uint8)


def _spacing(x: _Field) -> float:
    return float(x[0, 1] - x[0, 0])


def _visibility(number: int, nerve_frames: range) -> float:
    """How much of the nerve shows, 0 to 1; a trace of it in the frame next to those that count as having it."""
    if number in nerve_frames:
        return 1.0
    return 0.2 if number + 1 in nerve_frames or number - 1 in nerve_frames else 0.0


def _grid(height: int, width: int, border: int = 0) -> tuple[_Field, _Field]:
    """x and y of the pixel centres, float32, with `border` more columns on either side."""
    y, x = np.mgrid[0:height, -border : width + border].astype(np.float32) + np.float32(0.5)
    return x * (ASPECT / width), y / height


def _tissue_fields(anatomy: _Anatomy, x: _Field, y: _Field, blend: float) -> dict[str, _Field]:
    """The noise fields at these points, `blend` radians from the first to the second of each pair.

    With them x, y and `depth`, which is y in layers that bend.
    """

    def look_up(name: str, depth: _Field) -> _Field:
        first, second = anatomy.fields[name]
        field = math.cos(blend) * first + math.sin(blend) * second
        column, row = ((axis + FIELD_BORDER) * FIELD_PIXELS - 0.5 for axis in (x, depth))
        return np.asarray(cv2.remap(field, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32)

    depth = y + 0.04 * np.clip(look_up("bend", y), -2.5, 2.5) * np.minimum(1, y / 0.15)
    fields = {name: look_up(name, depth) for name in anatomy.fields if name != "bend"}
    return fields | {"x": x, "y": y, "depth": depth, "fascia": fields["fascia"] + 0.25 * fields["wiggle"]}


def _step(distance: _Field, width: float) -> _Field:
    """0 well below zero distance, 1 well above, smooth over about `width`."""
    share: _Field = 1 / (1 + np.exp(np.clip(distance * (-4 / width), -30, 30)))
    return share


def _line(distance: _Field, width: _Field | float) -> _Field:
    """1 at zero distance, falling to 0 over about `width`."""
    brightness: _Field = np.exp(-((distance / width) ** 2))
    return brightness


def _mix(field: _Field, value: _Field | float, weight: _Field) -> None:
    field += weight * (value - field)


def _layers(anatomy: _Anatomy, fields: dict[str, _Field]) -> _Tissue:
    """Skin, fat, the superficial muscle and what lies below, with sheets of fascia that come and go."""
    depth, patch, fibre, sheet, wiggle = (fields[name] for name in ("depth", "patch", "fibre", "sheet", "wiggle"))
    threads = np.maximum(fields["streak"] - 0.5, 0)
    middle, half, thickness = anatomy.belly
    muscle_bottom = anatomy.deep_fascia + thickness * np.clip(1 - ((fields["x"] - middle) / half) ** 2, 0, 1) ** 2
    in_fat = _step(depth - anatomy.skin, 0.008)
    below = _step(depth - muscle_bottom, 0.01)
    in_muscle = _step(depth - anatomy.fat, 0.008) * (1 - below)
    deep = _step(depth - anatomy.floor, 0.06)

    diffuse = -27 + 2 * patch + 2 * fibre
    _mix(diffuse, -34 + 3 * patch + 7 * threads, in_fat)
    _mix(diffuse, -37 + 2 * patch + 1.5 * wiggle + 4 * fibre + 6 * threads, in_muscle)
    _mix(diffuse, -33 + 5 * patch + 3 * wiggle + 3 * fibre + 5 * threads, below)
    _mix(diffuse, -36 + 3 * patch + 2 * wiggle + 3 * fibre + 3 * threads, deep)

    pixel = _spacing(fields["y"].T), _spacing(fields["x"])
    width = 0.0034 + 0.0014 * np.clip(wiggle, -1, 2)
    specular = 0.7 * np.clip(0.35 + 0.6 * sheet, 0, 1.5) * _sheets(fields["fascia"], width, pixel) * in_fat
    specular += 0.35 * np.clip(0.6 * patch - 0.1, 0, 1) * _sheets(fields["fascia"] - 0.8, width, pixel) * below
    specular += 0.22 * np.clip(0.4 + 0.5 * sheet, 0, 1) * threads**1.5 * (in_fat - 0.6 * in_muscle - 0.6 * deep)
    borders = ((anatomy.skin, 0.3), (anatomy.fat, 0.5), (muscle_bottom, 0.9), (anatomy.floor, 0.6))
    for border, brightness in borders:
        specular += brightness * np.clip(0.6 + 0.5 * sheet, 0.05, 1.5) * _line(depth - border, width)
    specular *= np.clip(1 + 0.4 * wiggle + 0.35 * fibre, 0.1, 2.5)
    return _Tissue(diffuse, specular, np.ones_like(diffuse))


def _sheets(field: _Field, width: _Field, pixel: tuple[float, float]) -> _Field:
    """Lines of that width where `field` changes sign; brighter the more squarely they face the beam.

    `pixel` is its height and width.
    """
    down, across = np.gradient(field, *pixel)
    slope = np.sqrt(down**2 + across**2) + 8  # the constant keeps plateaus of the field from turning into slabs
    lines: _Field = (down / slope) ** 2 * _line(field / slope, width)
    return lines


def _add_muscle(tissue: _Tissue, muscle: _Oval, fields: dict[str, _Field]) -> None:
    """A dark belly with fibres, in a thin sheath."""
    tissue, fields = _around(muscle, tissue, fields)
    distance, facing = muscle.outline(fields["x"], fields["depth"])
    inside = _step(-distance, 0.015)
    fibres = 4 * fields["fibre"] + 6 * np.maximum(fields["streak"] - 0.5, 0)
    _mix(tissue.diffuse, -39 + 2 * fields["patch"] + 1.5 * fields["wiggle"] + fibres, inside)
    _mix(tissue.specular, 0.25 * tissue.specular, inside)
    tissue.specular[:] += 0.6 * np.clip(0.4 + 0.6 * fields["sheet"], 0, 1.5) * facing**3 * _line(distance, 0.004)


def _add_bone(tissue: _Tissue, bone: _Oval, fields: dict[str, _Field]) -> None:
    """The upper surface of a transverse process, with the shadow below it."""
    tissue, fields = _around(bone, tissue, fields)
    distance, facing = bone.outline(fields["x"], fields["depth"])
    surface = facing**3 * _line(distance, 0.006) * (fields["depth"] < bone.y)
    tissue.specular[:] += 0.7 * np.clip(0.4 + 0.6 * fields["sheet"], 0, 1.5) * surface
    _mix(tissue.absorption, 2.5, _step(-distance, 0.01))


def _add_vessel(tissue: _Tissue, vessel: _Oval, fields: dict[str, _Field]) -> None:
    """Blood, which hardly scatters or absorbs, in a wall that shines where it faces the beam."""
    tissue, fields = _around(vessel, tissue, fields)
    distance, facing = vessel.outline(fields["x"], fields["depth"])
    inside = _step(-distance, 0.012)
    _mix(tissue.diffuse, -28, 0.8 * _line(distance - 0.012, 0.014))
    _mix(tissue.diffuse, -57 + 3 * fields["patch"], inside)
    _mix(tissue.specular, 0, inside)
    _mix(tissue.absorption, 0, inside)
    wall = facing**3 * _line(distance - 0.004, 0.006)
    tissue.specular[:] += 0.5 * np.clip(0.6 + 0.4 * fields["wiggle"], 0, 1.5) * wall


def _add_nerve(
    tissue: _Tissue,
    nerve: _Oval,
    fascicles: list[_Oval],
    visibility: float,
    fields: dict[str, _Field],
    x: _Field,
    y: _Field,
) -> None:
    """Puts the bundle in the place of other tissue: a bright rim, and dark fascicles in bright connective tissue."""
    window = nerve.window(x, y, 0.06)
    tissue, x, y = tissue.at(window), x[window], y[window]
    wiggle, fibre, streak = (fields[name][window] for name in ("wiggle", "fibre", "streak"))
    distance, facing = nerve.outline(x, y)
    distance += 0.003 * wiggle
    u, v = nerve.axes(x, y)
    gap = np.min([fascicle.outline(u, v)[0] for fascicle in fascicles], axis=0) * nerve.b + 0.004 * wiggle
    inside = _step(-distance, 0.01)
    width = 0.01 + 0.003 * np.clip(wiggle, -1.5, 1.5)
    uneven = np.clip(1 + 0.3 * wiggle, 0.5, 2)

    diffuse, specular = tissue.diffuse.copy(), tissue.specular.copy()
    near = _line(distance, 0.035)  # loose tissue of the groove that the bundle lies in
    _mix(diffuse, -36 + 3 * wiggle, 0.7 * near)
    _mix(specular, 0, 0.7 * near)
    _mix(diffuse, -23 + 3 * wiggle + 3 * fibre, inside)
    _mix(diffuse, -40 + 2 * wiggle + 3 * fibre, inside * _step(-gap, 0.016))
    _mix(diffuse, -18 + 2 * wiggle, _line(distance + 0.012, width))
    _mix(specular, 0, inside)
    specular += uneven * (0.1 + 0.6 * facing**2) * _line(distance + 0.01, 0.8 * width)
    specular += 0.25 * uneven * np.clip(0.4 + streak, 0, 1.5) * _line(gap - 0.006, 0.007) * inside
    tissue.diffuse[:] += visibility * (diffuse - tissue.diffuse)
    tissue.specular[:] += visibility * (specular - tissue.specular)


def _add_skin(tissue: _Tissue, fields: dict[str, _Field], y: _Field) -> None:
    """The face of the probe with a dark film of gel, then the entry echo and the dermis."""
    outside = 1 - _step(y - 0.011, 0.004)
    _mix(tissue.diffuse, -60, outside)
    _mix(tissue.specular, 0, outside)
    tissue.specular[:] += 0.5 * _line(y - 0.018, 0.004) + 0.35 * _line(fields["depth"] - 0.034, 0.004)


def _around(oval: _Oval, tissue: _Tissue, fields: dict[str, _Field]) -> tuple[_Tissue, dict[str, _Field]]:
    window = oval.window(fields["x"], fields["y"], margin=0.15)  # layers bend by up to 0.1
    return tissue.at(window), {name: field[window] for name, field in fields.items()}


def _scatterers(seed: int, subject: int, number: int, shape: tuple[int, ...]) -> _Field:
    """Unit Gaussian scatterers, float32 of (LOOKS, *shape, real and imaginary); neighbouring frames share some."""
    life, age = divmod(number, SCATTERER_LIFE)
    angle = age / SCATTERER_LIFE * math.pi / 2
    old, new = (_generation(seed, subject, generation, shape) for generation in (life + 1, life + 2))
    return math.cos(angle) * old + math.sin(angle) * new


@lru_cache(maxsize=2)
def _generation(seed: int, subject: int, generation: int, shape: tuple[int, ...]) -> _Field:
    return _rng(seed, subject, generation).standard_normal((LOOKS, *shape, 2), dtype=np.float32)


def _insonify(tissue: _Tissue, anatomy: _Anatomy, x: _Field, y: _Field, scatterers: _Field) -> _Field:
    """The echoes in dB, 0 being white: attenuation, point spread function, envelope, compounding of the looks."""
    height, width = y.shape
    path = np.cumsum(tissue.absorption + 1.2 * tissue.specular, axis=0) / height
    edges = np.linspace(1, -1, width, dtype=np.float32)
    shade = anatomy.contact[0] * np.maximum(edges, 0) ** 3 + anatomy.contact[1] * np.maximum(-edges, 0) ** 3
    level = anatomy.gain - ATTENUATION * (path - COMPENSATION * y) - shade * np.minimum(1, y / 0.3)

    lateral_blur = 0.005 + 0.005 * y[:, :1]  # standard deviation of the point spread function across the beam
    frequencies = np.fft.fftfreq(width, _spacing(x)).astype(np.float32)
    transfer = np.exp(-2 * (math.pi * frequencies * lateral_blur) ** 2)
    # What the point spread function leaves of the scatterers' standard deviation, row by row
    spread = np.sqrt((transfer**2).mean(axis=1, keepdims=True) / (2 * math.sqrt(math.pi) * AXIAL_BLUR * height))

    # Interfaces echo mostly as one, the rest of them as scatterers do
    smooth = 1.5 * tissue.specular * 10 ** (level / 20)
    rough = np.sqrt(10 ** ((tissue.diffuse + level) / 10) + 0.8 * smooth**2) / (math.sqrt(2) * spread)
    power = np.zeros_like(y)
    for look in scatterers:
        echoes = look * rough[..., None]
        echoes[..., 0] += smooth
        echoes = cv2.GaussianBlur(echoes, (0, 0), sigmaX=1e-3, sigmaY=AXIAL_BLUR * height)
        spectrum = np.fft.fft(echoes.view(np.complex64)[..., 0], axis=1)
        echoes = np.fft.ifft(spectrum * transfer, axis=1)
        power += echoes.real**2 + echoes.imag**2
    noise = 10 ** (-6.4 + y) * (scatterers[0] ** 2).sum(axis=-1)  # of the receiver, amplified with depth
    decibels: _Field = 10 * np.log10(power / LOOKS + noise)
    return decibels
