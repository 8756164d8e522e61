"""Dataset zips as others make them, with frames of noise.

The nerve of a frame is `nerve(seed)`, where the frame is `dataset_zips.frame(seed)`.
"""

import io
import json

import numpy as np
from PIL import Image

from dataset_zips import HEIGHT, WIDTH, frame, image, parquet
from nerveseg.data import rle

NAMES = [f"{subject}_{number}" for subject in range(1, 4) for number in range(1, 3)]  # three people, two frames each
ORIENTATION, QUARTER_TURN = 0x0112, 6  # the EXIF and TIFF tag; it says: to be shown turned clockwise by 90 degrees


def nerve(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A disc, elsewhere for each seed: uint8 0/1 (height, width)."""
    random = np.random.default_rng(seed)
    row, column = random.integers(10, height - 10), random.integers(10, width - 10)
    rows, columns = np.mgrid[:height, :width]
    return (((rows - row) ** 2 + (columns - column) ** 2) < 64).astype(np.uint8)


def listed(names: list[str]) -> dict[str, bytes]:
    """A table of frames with these names, and their images."""
    masks = [rle.encode(nerve(seed)) for seed in range(len(names))]
    images = {f"images/{name}": image(frame(seed), name.rpartition(".")[2]) for seed, name in enumerate(names)}
    return {"train.pq": parquet(image=names, class_id="nerve", rle_mask=masks)} | images


def paired(masks: list[bytes]) -> dict[str, bytes]:
    """A TIFF frame for each of these mask files."""
    members = {}
    for seed, (name, content) in enumerate(zip(NAMES, masks, strict=True)):
        members |= {f"{name}.tif": image(frame(seed)), f"{name}_mask.tif": content}
    return members


def studies() -> dict[str, bytes]:
    """`<study>_<patient>_<frame>`: five patients, each in all of six studies."""
    return listed([f"{study}_{patient:02}_1.png" for study in "ABCDEF" for patient in range(1, 6)])


def no_subjects() -> dict[str, bytes]:
    """`IMG_0001.png`, as cameras count: nothing says who is who."""
    return listed([f"IMG_{number:04}.png" for number in range(1, 13)])


def class_prefixes() -> dict[str, bytes]:
    """`benign_1.png`, as in BUSI (Al-Dhabyani et al. 2020): the class stands where the subject is looked for."""
    return listed([f"{label}_{number}.png" for label in ("benign", "malignant", "normal") for number in range(1, 6)])


def palettes() -> dict[str, bytes]:
    """Masks whose class ids index a palette: black everywhere, with a white background, and nearly black."""
    colours = ([0] * 768, [255, 255, 255, 0, 0, 0] + [0] * 762, [0, 0, 0, 1, 1, 1] + [0] * 762)
    masks = []
    for seed in range(len(NAMES)):
        mask = Image.fromarray(nerve(seed), mode="P")
        mask.putpalette(colours[seed % 3])
        masks.append(_saved(mask, "TIFF"))
    return paired(masks)


def alpha_masks() -> dict[str, bytes]:
    """Masks that are white everywhere, and opaque where the nerve is."""
    white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    return paired([image(np.dstack([white, nerve(seed) * 255])) for seed in range(len(NAMES))])


def turned() -> dict[str, bytes]:
    """TIFF frames and masks that are stored lying, and say so in their orientation."""
    members = {}
    for seed, name in enumerate(NAMES):
        for ending, pixels in (("", frame(seed)), ("_mask", nerve(seed) * 255)):
            lying = Image.fromarray(np.rot90(pixels))  # to the left: a quarter turn to the right makes it upright
            members[f"{name}{ending}.tif"] = _saved(lying, "TIFF", tiffinfo={ORIENTATION: QUARTER_TURN})
    return members


def turned_photographs() -> dict[str, bytes]:
    """JPEG frames that are stored lying, and say so in their EXIF; the run lengths are those of the upright frames."""
    names = [f"{name}.jpg" for name in NAMES]
    members = listed(names)
    exif = Image.Exif()
    exif[ORIENTATION] = QUARTER_TURN
    for seed, name in enumerate(names):
        members[f"images/{name}"] = _saved(Image.fromarray(np.rot90(frame(seed))), "JPEG", exif=exif, quality=100)
    return members


def several_classes() -> dict[str, bytes]:
    """Two rows for each frame: its nerve, and an artery elsewhere."""
    names = [f"{name}.png" for name in NAMES]
    members = listed(names)
    masks = [rle.encode(mask) for seed in range(len(NAMES)) for mask in (nerve(seed), nerve(seed + 100))]
    twice = [name for name in names for _ in range(2)]
    members["train.pq"] = parquet(image=twice, class_id=["nerve", "artery"] * len(NAMES), rle_mask=masks)
    return members


def busi() -> dict[str, bytes]:
    """BUSI as it is published: a folder for each diagnosis, 1-bit masks, and a second mask of some images."""
    members = {}
    for seed in range(len(NAMES)):
        diagnosis = ("benign", "malignant", "normal")[seed % 3]
        name = f"Dataset_BUSI_with_GT/{diagnosis}/{diagnosis} ({seed + 1})"
        truth = nerve(seed).astype(bool)
        upper = np.arange(HEIGHT)[:, None] < np.flatnonzero(truth.any(axis=1)).mean()
        members |= {f"{name}.png": image(frame(seed), "png"), f"{name}_mask.png": image(truth & upper, "png")}
        members[f"{name}_mask_1.png"] = image(truth & ~upper, "png")
    return members


def label_maps() -> dict[str, bytes]:
    """Two folders; in the masks, a nerve is 1 and an artery elsewhere 2, in grey."""
    members = {}
    for seed, name in enumerate(NAMES):
        artery = nerve(seed + 100) & ~nerve(seed)
        members[f"export/Images/{name}.jpeg"] = image(frame(seed), "jpeg", quality=100)
        members[f"export/Labels/{name}.png"] = image(nerve(seed) + 2 * artery, "png")
    return members


def nnunet() -> dict[str, bytes]:
    """nnU-Net's folders with a nerve and an artery."""
    members = {}
    for seed, name in enumerate(NAMES):
        artery = nerve(seed + 100) & ~nerve(seed)
        members[f"Dataset070_Nerves/imagesTr/{name}_0000.png"] = image(frame(seed), "png")
        members[f"Dataset070_Nerves/labelsTr/{name}.png"] = image(nerve(seed) + 2 * artery, "png")
    labels = {"background": 0, "nerve": 1, "artery": 2}
    description = {"channel_names": {"0": "us"}, "labels": labels, "numTraining": len(NAMES), "file_ending": ".png"}
    return members | {"Dataset070_Nerves/dataset.json": json.dumps(description, indent=4).encode()}


def _saved(pixels: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels.save(buffer, form, **options)
    return buffer.getvalue()
