"""Acoustic properties of the tissue in one frame: scattering, reflection and absorption at every point."""

from dataclasses import dataclass

import numpy as np

from nerveseg.phantom import noise
from nerveseg.phantom.anatomy import Anatomy
from nerveseg.phantom.geometry import Field, Oval, spacing


@dataclass(frozen=True)
class Tissue:
    """Maps of acoustic properties, float32 of shape (height, width + borders)."""

    diffuse: Field  # scattering, dB
    specular: Field  # amplitude of reflections at interfaces, 1 is white
    absorption: Field  # 1 in soft tissue

    def at(self, window: tuple[slice, slice]) -> "Tissue":
        """A view of part of it: drawing there draws on the whole."""
        return Tissue(self.diffuse[window], self.specular[window], self.absorption[window])


def sample_fields(anatomy: Anatomy, x: Field, y: Field, blend: float) -> dict[str, Field]:
    """The noise fields at these points, `blend` radians of the way from the first to the second of each pair.

    Also `x`, `y` and `depth`, which is y along layers that bend.
    """
    bend = noise.sample(anatomy.fields["bend"], x, y, blend)
    depth = y + 0.04 * np.clip(bend, -2.5, 2.5) * np.minimum(1, y / 0.15)
    fields = {name: noise.sample(pair, x, depth, blend) for name, pair in anatomy.fields.items() if name != "bend"}
    return fields | {"x": x, "y": y, "depth": depth, "fascia": fields["fascia"] + 0.25 * fields["wiggle"]}


def build(anatomy: Anatomy, fields: dict[str, Field], x: Field, y: Field, visibility: float) -> Tissue:
    """The tissue of a subject.

    Args:
        anatomy: as it lies in this frame.
        fields: from `sample_fields`.
        x, y: the grid, float32 of shape (height, width + borders).
        visibility: how much of the nerve shows, 0 to 1.
    """
    tissue = _layers(anatomy, fields)
    for muscle in anatomy.muscles:
        _add_muscle(tissue, muscle, fields)
    _add_bone(tissue, anatomy.bone, fields)
    for vessel in (*anatomy.arteries, *anatomy.veins):
        _add_vessel(tissue, vessel, fields)
    if visibility > 0:
        _add_nerve(tissue, anatomy.nerve, anatomy.fascicles, visibility, fields, x, y)
    _add_skin(tissue, fields, y)
    return tissue


def _layers(anatomy: Anatomy, fields: dict[str, Field]) -> Tissue:
    """Skin, fat, the superficial muscle and the tissue below, with sheets of fascia that fade in and out."""
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

    pixel = spacing(fields["y"].T), spacing(fields["x"])
    width = 0.0034 + 0.0014 * np.clip(wiggle, -1, 2)
    specular = 0.7 * np.clip(0.35 + 0.6 * sheet, 0, 1.5) * _sheets(fields["fascia"], width, pixel) * in_fat
    specular += 0.35 * np.clip(0.6 * patch - 0.1, 0, 1) * _sheets(fields["fascia"] - 0.8, width, pixel) * below
    specular += 0.22 * np.clip(0.4 + 0.5 * sheet, 0, 1) * threads**1.5 * (in_fat - 0.6 * in_muscle - 0.6 * deep)
    borders = ((anatomy.skin, 0.3), (anatomy.fat, 0.5), (muscle_bottom, 0.9), (anatomy.floor, 0.6))
    for border, brightness in borders:
        specular += brightness * np.clip(0.6 + 0.5 * sheet, 0.05, 1.5) * _ridge(depth - border, width)
    specular *= np.clip(1 + 0.4 * wiggle + 0.35 * fibre, 0.1, 2.5)
    return Tissue(diffuse, specular, np.ones_like(diffuse))


def _add_muscle(tissue: Tissue, muscle: Oval, fields: dict[str, Field]) -> None:
    """A dark belly with fibres in a thin sheath."""
    tissue, fields = _around(muscle, tissue, fields)
    distance, facing = muscle.outline(fields["x"], fields["depth"])
    inside = _step(-distance, 0.015)
    fibres = 4 * fields["fibre"] + 6 * np.maximum(fields["streak"] - 0.5, 0)
    _mix(tissue.diffuse, -39 + 2 * fields["patch"] + 1.5 * fields["wiggle"] + fibres, inside)
    _mix(tissue.specular, 0.25 * tissue.specular, inside)
    tissue.specular[:] += 0.6 * np.clip(0.4 + 0.6 * fields["sheet"], 0, 1.5) * facing**3 * _ridge(distance, 0.004)


def _add_bone(tissue: Tissue, bone: Oval, fields: dict[str, Field]) -> None:
    """The upper surface of a transverse process, and the absorption that casts its shadow."""
    tissue, fields = _around(bone, tissue, fields)
    distance, facing = bone.outline(fields["x"], fields["depth"])
    surface = facing**3 * _ridge(distance, 0.006) * (fields["depth"] < bone.y)
    tissue.specular[:] += 0.7 * np.clip(0.4 + 0.6 * fields["sheet"], 0, 1.5) * surface
    _mix(tissue.absorption, 2.5, _step(-distance, 0.01))


def _add_vessel(tissue: Tissue, vessel: Oval, fields: dict[str, Field]) -> None:
    """Blood, which hardly scatters or absorbs, in a wall that is bright where it faces the beam."""
    tissue, fields = _around(vessel, tissue, fields)
    distance, facing = vessel.outline(fields["x"], fields["depth"])
    inside = _step(-distance, 0.012)
    _mix(tissue.diffuse, -28, 0.8 * _ridge(distance - 0.012, 0.014))
    _mix(tissue.diffuse, -57 + 3 * fields["patch"], inside)
    _mix(tissue.specular, 0, inside)
    _mix(tissue.absorption, 0, inside)
    wall = facing**3 * _ridge(distance - 0.004, 0.006)
    tissue.specular[:] += 0.5 * np.clip(0.6 + 0.4 * fields["wiggle"], 0, 1.5) * wall


def _add_nerve(
    tissue: Tissue,
    nerve: Oval,
    fascicles: list[Oval],
    visibility: float,
    fields: dict[str, Field],
    x: Field,
    y: Field,
) -> None:
    """Replaces tissue by the nerve bundle: a bright rim, and dark fascicles in bright connective tissue."""
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
    near = _ridge(distance, 0.035)  # loose tissue in the groove around the bundle
    _mix(diffuse, -36 + 3 * wiggle, 0.7 * near)
    _mix(specular, 0, 0.7 * near)
    _mix(diffuse, -23 + 3 * wiggle + 3 * fibre, inside)
    _mix(diffuse, -40 + 2 * wiggle + 3 * fibre, inside * _step(-gap, 0.016))
    _mix(diffuse, -18 + 2 * wiggle, _ridge(distance + 0.012, width))
    _mix(specular, 0, inside)
    specular += uneven * (0.1 + 0.6 * facing**2) * _ridge(distance + 0.01, 0.8 * width)
    specular += 0.25 * uneven * np.clip(0.4 + streak, 0, 1.5) * _ridge(gap - 0.006, 0.007) * inside
    tissue.diffuse[:] += visibility * (diffuse - tissue.diffuse)
    tissue.specular[:] += visibility * (specular - tissue.specular)


def _add_skin(tissue: Tissue, fields: dict[str, Field], y: Field) -> None:
    """The dark film of gel under the probe, then the entry echo and the dermis."""
    outside = 1 - _step(y - 0.011, 0.004)
    _mix(tissue.diffuse, -60, outside)
    _mix(tissue.specular, 0, outside)
    tissue.specular[:] += 0.5 * _ridge(y - 0.018, 0.004) + 0.35 * _ridge(fields["depth"] - 0.034, 0.004)


def _sheets(field: Field, width: Field, pixel: tuple[float, float]) -> Field:
    """Lines of the given width where `field` changes sign, brighter the more squarely they face the beam.

    `pixel` is the height and width of a pixel.
    """
    down, across = np.gradient(field, *pixel)
    slope = np.sqrt(down**2 + across**2) + 8  # the constant keeps plateaus of the field from turning into slabs
    lines: Field = (down / slope) ** 2 * _ridge(field / slope, width)
    return lines


def _around(oval: Oval, tissue: Tissue, fields: dict[str, Field]) -> tuple[Tissue, dict[str, Field]]:
    window = oval.window(fields["x"], fields["y"], margin=0.15)  # layers bend by up to 0.1
    return tissue.at(window), {name: field[window] for name, field in fields.items()}


def _step(distance: Field, width: float) -> Field:
    """0 where the distance is well below zero, 1 where well above; smooth over about `width`."""
    share: Field = 1 / (1 + np.exp(np.clip(distance * (-4 / width), -30, 30)))
    return share


def _ridge(distance: Field, width: Field | float) -> Field:
    """1 at zero distance, falling to 0 over about `width`."""
    brightness: Field = np.exp(-((distance / width) ** 2))
    return brightness


def _mix(field: Field, value: Field | float, weight: Field) -> None:
    field += weight * (value - field)
