"""The split stage on small zips: what lies on disk and on the terminal afterwards."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from dataset_zips import HEIGHT, WIDTH, frame, image, kaggle, mask, parquet, write_zip
from limits import largest_file
from nerveseg import params, paths
from nerveseg.data import rle
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.files import read_json, sha256
from nerveseg.stages import split

REPOSITORY = Path(__file__).parents[2]
OWN_PATTERN = "(?P<subject>[0-9]+)_[0-9]+"
REAL_DATA = REPOSITORY.parent / "shared/data"


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(
    members: dict[str, bytes] | None = None,
    frames: str = "all",
    subject: str = OWN_PATTERN,
    classes: list[int | str] | None = None,
    **changes: Any,
) -> FrameStore:
    """Runs the stage on a zip of these members with params.yaml's own values but for these changes."""
    if members is not None:
        write_zip(paths.DATASET_ZIP, members)
    content = params.read_yaml(REPOSITORY / paths.PARAMS)
    # A pattern of our own: the shipped one would be doubted where each subject has one frame.
    content["data"] |= {"frames": frames, "subject": subject, "classes": classes}
    content["split"] |= changes
    split.run(params.parse(content, "params"))
    return FrameStore.open(paths.PACKED)


def refusal(members: dict[str, bytes], **changes: Any) -> str:
    with pytest.raises(NervesegError) as error:
        run(members, **changes)
    assert not paths.PACKED.exists()
    assert [path.name for path in paths.PACKED.parent.iterdir() if path.name.startswith(".")] == []
    return str(error.value)


def found() -> list[tuple[str, str, str]]:
    report = read_json(paths.FINDINGS_JSON if paths.FINDINGS_JSON.exists() else paths.PACKED / "findings.json")
    return sorted((each["severity"], each["kind"], each["image"]) for each in report["findings"])


def hydrogen_torch(subjects: int = 6, suffix: str = "png", **columns: Any) -> dict[str, bytes]:
    names = [f"{subject}_1.{suffix}" for subject in range(1, subjects + 1)]
    columns = {"image": names, "class_id": "0", "rle_mask": [rle.encode(mask())] * subjects} | columns
    images = {f"images/{name}": image(frame(number), suffix) for number, name in enumerate(names)}
    return {"train.pq": parquet(**columns)} | images


def test_packs_kaggle_pairs_exactly() -> None:
    store = run(kaggle())
    assert store.index["image"].tolist() == [f"{s}_{n}.tif" for s in range(1, 7) for n in (1, 2)]
    assert store.index["subject"].tolist() == [str(s) for s in range(1, 7) for _ in (1, 2)]
    np.testing.assert_array_equal(store.frame(3), frame(202))
    np.testing.assert_array_equal(store.mask(2), mask(30))
    assert store.index["mask_area"].tolist() == [30, 0] * 6
    assert read_json(paths.PACKED / "findings.json") == {
        "layout": "pairs",
        "frames": 12,
        "subjects": 6,
        "subjects_known": True,
        "subjects_read": f"Subjects were read from the file names by data.subject, {OWN_PATTERN}.",
        "subject_rule": OWN_PATTERN,
        "frames_with_mask": 6,
        "frames_used": 12,
        "errors": 0,
        "warnings": 0,
        "findings": [],
    }


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "tif", "tiff", "bmp"])
def test_packs_hydrogen_torch_with_any_image_type(suffix: str) -> None:
    store = run(hydrogen_torch(suffix=suffix))
    assert len(store) == 6
    assert store.frame(0).shape == (HEIGHT, WIDTH)
    if not suffix.startswith("j"):
        np.testing.assert_array_equal(store.frame(0), frame(0))
    np.testing.assert_array_equal(store.mask(5), mask())


def test_packs_frames_of_differing_sizes() -> None:
    sizes = [(40, 50), (33, 90), (64, 32), (40, 50), (50, 40), (99, 99)]
    members = {}
    for number, (height, width) in enumerate(sizes):
        members[f"{number}_1.tif"] = image(frame(number, height, width))
        members[f"{number}_1_mask.tif"] = image(mask(number, height, width))
    store = run(members)
    for number, size in enumerate(sizes):
        np.testing.assert_array_equal(store.frame(number), frame(number, *size))
        np.testing.assert_array_equal(store.mask(number), mask(number, *size))


def test_rows_of_an_image_unite() -> None:
    members = hydrogen_torch()
    names = [*(f"{subject}_1.png" for subject in range(1, 7)), "3_1.png"]
    members["train.pq"] = parquet(image=names, class_id="0", rle_mask=[None, "", "1 5", *["1 1"] * 3, "4 9"])
    store = run(members)
    np.testing.assert_array_equal(store.mask(2), rle.decode("1 12", HEIGHT, WIDTH))
    assert store.index["mask_area"].tolist() == [0, 0, 12, 1, 1, 1]


def test_nonempty_drops_empty_frames_and_the_subjects_that_had_no_other() -> None:
    members = kaggle() | {"train/7_1.tif": image(frame(7)), "train/7_1_mask.tif": image(mask(0))}
    store = run(members, frames="nonempty")
    assert store.index["image"].tolist() == [f"{subject}_1.tif" for subject in range(1, 7)]
    report = read_json(paths.PACKED / "findings.json")
    assert (report["frames"], report["subjects"], report["frames_with_mask"], report["frames_used"]) == (13, 7, 6, 6)


def test_nothing_but_empty_masks_is_a_clear_error() -> None:
    members = {f"{s}_1{end}.tif": image(mask(0) if end else frame(s)) for s in range(6) for end in ("", "_mask")}
    assert "No frames to split" in refusal(members, frames="nonempty")
    assert len(run(members, frames="all")) == 6


def test_no_frame_at_all_is_a_clear_error() -> None:
    assert "has 1 error" in refusal({"train_masks.csv": b"subject,img,pixels\n"}, frames="all")
    assert details() == ["the dataset has no frame with a mask"]


def test_same_zip_gives_the_same_bytes_whatever_the_order_in_it() -> None:
    members = kaggle() | {f"test/{number}.tif": image(frame(number)) for number in (2, 1)}
    members |= {f"train/{name}.png": image(frame(1), "png") for name in "ba"}  # warnings
    digests = []
    for order in (list(members), list(reversed(members))):
        run({name: members[name] for name in order})
        digests.append([sha256(path) for path in sorted(paths.PACKED.iterdir())])
    assert digests[0] == digests[1]


def test_honours_the_datasets_own_folds(capsys: pytest.CaptureFixture[str]) -> None:
    store = run(hydrogen_torch(fold=[0, 1, 2, 0, 3, 4]), by="fold", validation_fold=0, test_fold=4)
    assert store.index["split"].tolist() == ["validation", "train", "train", "validation", "train", "test"]
    assert store.index["fold"].tolist() == [0, 1, 2, 0, 3, 4]
    rows = [line.split("│")[1:6] for line in capsys.readouterr().err.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["train", "3", "3", "3", "3"],
        ["validation", "2", "2", "2", "2"],
        ["test", "1", "1", "1", "1"],
    ]


def test_subjects_with_near_identical_frames_are_on_one_side() -> None:
    members = hydrogen_torch(subjects=12)
    for noisy, subject in ((1, 5), (2, 9), (3, 11)):
        pixels = np.clip(frame(0).astype(int) + np.random.default_rng(noisy).integers(-1, 2, (HEIGHT, WIDTH)), 0, 255)
        members[f"images/{subject}_1.png"] = image(pixels.astype(np.uint8), "png")
    for seed in range(6):
        index = run(members, seed=seed).index.set_index("subject")
        assert index["cluster"].value_counts().tolist() == [4, *[1] * 8]
        assert index.loc[["1", "5", "9", "11"], "split"].nunique() == 1
        assert found() == [("warning", "near-identical across subjects", "1_1.png")]
    assert run(members, near_duplicate=0).index["cluster"].nunique() > 9, "no bit may differ"


def test_blank_frames_tie_nobody() -> None:
    members = hydrogen_torch()
    members |= {
        f"images/{subject}_1.png": image(np.full((HEIGHT, WIDTH), subject, np.uint8), "png") for subject in (1, 2)
    }
    assert run(members).index["cluster"].nunique() == 6


def test_folds_test_every_frame_once() -> None:
    tested = []
    for fold in range(3):
        index = run(kaggle(subjects=7), folds=3, fold=fold).index
        tested += index.loc[index["split"] == "test", "image"].tolist()
    assert sorted(tested) == sorted(index["image"])


def test_a_leak_in_the_datasets_own_folds_stops_the_stage() -> None:
    members = hydrogen_torch(fold=[0, 1, 2, 2, 2, 2])
    extra = parquet(image=["1_2.png"], class_id="0", rle_mask=["1 5"], fold=[2])
    both = pd.concat([pd.read_parquet(io.BytesIO(table)) for table in (members["train.pq"], extra)])
    members |= {"train.pq": both.to_parquet(index=False), "images/1_2.png": image(frame(99), "png")}
    text = refusal(members, by="fold", validation_fold=0, test_fold=1)
    assert "  1: train, validation" in text


def test_a_fold_that_vanishes_with_its_empty_frames_is_a_clear_error() -> None:
    members = hydrogen_torch(fold=[0, 1, 2, 3, 3, 3], rle_mask=[None, *["1 5"] * 5])
    text = refusal(members, frames="nonempty", by="fold", validation_fold=0, test_fold=1)
    assert "split.validation_fold is 0, but the existing folds are: 1 (1 frames)" in text


def two_pages() -> bytes:
    buffer = io.BytesIO()
    pages = [Image.fromarray(frame(seed)) for seed in (1, 2)]
    pages[0].save(buffer, format="TIFF", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


def smeared_mask() -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(image(mask() * 255, "jpg", quality=30))).save(buffer, format="TIFF")
    return buffer.getvalue()


def test_every_finding_of_kaggle_pairs_is_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    good = image(mask() * 255)
    pairs = {
        "11_1": (b"no image", good),
        "11_2": (image(frame(1)), b"no image"),
        "11_3": (image(frame(2)), image(mask(5, HEIGHT, WIDTH + 1))),
        "11_4": (image(frame(3)), smeared_mask()),
        "11_5": (image(frame(4)), None),
        "11_6": (None, good),
        "11_7": (image(frame(5, 31, 50)), image(mask(5, 31, 50) * 255)),
        "11_8": (image(frame(6).astype(np.uint16)), good),
        "11_9": (two_pages(), good),
        "noise": (image(frame(7)), good),
        "12_1": (image(np.stack([frame(8), frame(9), frame(10)], axis=2)), good),
        "12_2": (image(np.zeros((HEIGHT, WIDTH), np.uint8)), good),
        "1_3": (image(frame(101)), image(mask(30) * 255)),
        "1_4": (image(frame(101)), image(mask(31) * 255)),
        "13_1": (image(frame(101)), image(mask(30) * 255)),
    }
    members = kaggle()
    for name, (pixels, mask_file) in pairs.items():
        members |= {f"train/{name}.tif": pixels} if pixels is not None else {}
        members |= {f"train/{name}_mask.tif": mask_file} if mask_file is not None else {}
    text = refusal(members)

    assert "10 errors" in text
    assert str(paths.FINDINGS_JSON) in text
    assert found() == [
        ("error", "bit depth", "11_8.tif"),
        ("error", "frame too small", "11_7.tif"),
        ("error", "mask values", "11_4.tif"),
        ("error", "missing frame", "11_6_mask.tif"),
        ("error", "missing mask", "11_5.tif"),
        ("error", "several pages", "11_9.tif"),
        ("error", "size mismatch", "11_3.tif"),
        ("error", "unparseable subject", "noise.tif"),
        ("error", "unreadable", "11_1.tif"),
        ("error", "unreadable", "11_2.tif"),
        ("warning", "blank frame", "12_2.tif"),
        ("warning", "colour", "12_1.tif"),
        ("warning", "contradictory masks", "1_4.tif"),
        ("warning", "duplicate frame", "1_3.tif"),
        ("warning", "duplicate frame across subjects", "13_1.tif"),
    ]
    report = read_json(paths.FINDINGS_JSON)
    assert (report["errors"], report["warnings"], report["frames_used"]) == (10, 5, 0)
    shown = capsys.readouterr().err
    assert all(kind in shown for kind in ("size mismatch", "11_3.tif", "contradictory", "10 errors and 5 warnings"))


def test_every_finding_of_hydrogen_torch_is_reported_at_once() -> None:
    names = ["1_1.png", "2_1.png", "3_1.png", "4_1.png", "5_1.png", "5_1.png", "8_1.png"]
    runs = ["1 5", "1 2 3", "0 5", "1 5 3 9", "1 5", "6 1", "1 5"]
    members = hydrogen_torch()
    members["train.pq"] = parquet(image=names, class_id=["0"] * 7, rle_mask=runs, fold=[0, 0, 0, 0, 0, 1, 0])
    refusal(members)
    assert found() == [
        ("error", "conflicting folds", "5_1.png"),
        ("error", "missing frame", "8_1.png"),
        ("error", "run lengths", "2_1.png"),
        ("error", "run lengths", "3_1.png"),
        ("error", "run lengths", "4_1.png"),
        ("warning", "unlabelled frames", "images/"),
    ]


def disc(height: int = HEIGHT, width: int = WIDTH, radius: int = 12) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return ((rows - height // 2) ** 2 + (columns - width // 2) ** 2 <= radius**2).astype(np.uint8)


def turned(pixels: np.ndarray, suffix: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return image(pixels, suffix, exif=exif)


def details() -> list[str]:
    path = paths.FINDINGS_JSON if paths.FINDINGS_JSON.exists() else paths.PACKED / "findings.json"
    return [finding["detail"] for finding in read_json(path)["findings"]]


def test_masks_that_cannot_be_right_are_errors() -> None:
    members = kaggle(subjects=5)
    members["train/1_1_mask.tif"] = image((1 - mask()) * 255)  # inverted
    members["train/2_1_mask.tif"] = image(np.full((HEIGHT, WIDTH), 255, np.uint8))
    members["train/3_1_mask.tif"] = image(np.full((HEIGHT, WIDTH, 4), 255, np.uint8))  # opaque everywhere
    members["train/4_1_mask.tif"] = image(np.array([(255, 0, 0), (0, 130, 0)], np.uint8)[mask()])  # of equal luma
    refusal(members)
    assert found() == [
        ("error", "mask over half the frame", "1_1.tif"),
        ("error", "mask values", "2_1.tif"),
        ("error", "mask values", "3_1.tif"),
        ("error", "mask values", "4_1.tif"),
    ]
    assert "covers 98% of the frame; if the mask is inverted, swap its values" in details()[0]


def test_colours_in_masks_are_no_finding() -> None:
    members = kaggle(subjects=3, frames=1)
    for subject in (1, 2, 3):
        dark = np.array([(0, 0, 0), (0, 0, 4)], np.uint8)[mask()]
        members[f"train/{subject}_1_mask.tif"] = image(dark)
    store = run(members)
    assert found() == []
    np.testing.assert_array_equal(store.mask(0), mask())


def test_transparent_frames_are_a_warning() -> None:
    members = hydrogen_torch()
    for subject, alpha in ((1, 255), (2, 0)):
        pixels = np.dstack([frame(10 + subject)] * 4)
        pixels[..., 3] = alpha
        members[f"images/{subject}_1.png"] = image(pixels, "png")
    run(members)
    assert found() == [("warning", "transparency", "2_1.png")]


def test_masks_that_write_the_nerve_in_several_ways_are_an_error() -> None:
    members = kaggle(subjects=3)
    members["train/3_1_mask.tif"] = image(mask() * 2)
    refusal(members)
    assert found() == [("error", "several mask values", "3_1.tif")]
    assert "#ffffff in 2 masks, such as that of 1_1.tif; #020202 in 1 masks, such as that of 3_1.tif" in details()[0]


def labelled() -> dict[str, bytes]:
    """Kaggle pairs whose masks are label maps of a nerve (1) and an artery (2)."""
    members = kaggle(subjects=3)
    for subject in (1, 2, 3):
        members[f"train/{subject}_1_mask.tif"] = image(mask() + 2 * np.roll(mask(), 900))
    return members


def test_masks_of_several_values_need_a_choice() -> None:
    refusal(labelled())
    assert found() == [
        *[("error", "mask values", f"{subject}_1.tif") for subject in (1, 2, 3)],
        ("error", "several mask values", "1_1.tif"),
    ]
    assert "#020202 in 3 masks, such as that of 1_1.tif" in details()[-1]
    assert "such as data.classes: [2]" in details()[-1]
    store = run(labelled(), classes=[1])
    np.testing.assert_array_equal(store.mask(2), mask())
    assert found() == [("warning", "other classes", "1_1.tif")]
    assert "#020202 in 3 masks" in details()[0]
    np.testing.assert_array_equal(run(labelled(), classes=["#010101", 2]).mask(4), mask() | np.roll(mask(), 900))
    assert found() == []


@pytest.mark.parametrize("wrong", [3, "#ff0000", 0])
def test_a_chosen_value_that_no_mask_has_is_an_error(wrong: int | str) -> None:
    refusal(labelled(), classes=[1, wrong])
    assert ("error", "unknown class", "1_1.tif") in found()
    assert f"data.classes has {wrong}, which no mask has as a value; they have #020202 in 3 masks" in details()[0]
    refusal({name: image(mask(0)) if "_mask" in name else content for name, content in kaggle().items()}, classes=[1])
    assert "they have only a background" in details()[0]


def test_compressed_masks_are_not_chosen_from() -> None:
    members = kaggle(subjects=3)
    members["train/1_1_mask.tif"] = image(np.clip(frame(1), 0, 60))
    members["train/2_1_mask.jpg"] = image(mask() * 255, "jpg", quality=95)
    del members["train/2_1_mask.tif"]
    refusal(members, classes=[255])
    assert found() == [("error", "mask values", "1_1.tif"), ("error", "mask values", "2_1.tif")]
    assert "JPEG compression and resampling leave" in details()[0]


def test_files_of_one_mask_agree() -> None:
    members = kaggle(subjects=4)
    members["train/1_1_mask_1.tif"] = image(np.roll(mask(), 900) * 255)
    sound = dict(members)
    members["train/2_1_mask_1.tif"] = image(mask(30, HEIGHT, WIDTH + 1) * 255)
    members["train/3_1_mask_1.tif"] = image(mask() * 2)
    refusal(members)
    assert found() == [
        ("error", "several mask values", "3_1.tif"),
        ("error", "size mismatch", "2_1.tif"),
        ("warning", "joined masks", "1_1_mask_1.tif"),
    ]
    assert "2_1_mask.tif and train/2_1_mask_1.tif differ in size" in " ".join(details())
    np.testing.assert_array_equal(run(sound).mask(0), mask() | np.roll(mask(), 900))


def test_run_lengths_along_rows_are_an_error() -> None:
    along_rows = rle.encode(disc().T)
    refusal(hydrogen_torch(rle_mask=[along_rows] + [rle.encode(disc())] * 5))
    assert found() == [("error", "run lengths", "1_1.png")]
    assert "down the columns, as they must be, but 1 along the rows" in details()[0]


def test_run_lengths_of_half_the_frame_of_many_pieces_and_of_endless_text() -> None:
    dots = np.zeros((HEIGHT, WIDTH), np.uint8)
    dots[::4, ::4] = 1
    runs = [rle.encode(1 - disc()), rle.encode(dots), "1 1 " * 300_000, "-1", rle.encode(disc()), None]
    refusal(hydrogen_torch(rle_mask=runs))
    assert found() == [
        ("error", "mask over half the frame", "1_1.png"),
        ("error", "run lengths", "3_1.png"),
        ("error", "run lengths", "4_1.png"),
        ("warning", "many pieces", "2_1.png"),
    ]
    assert "leave the cell empty" in " ".join(details())


def test_frames_and_masks_are_turned_by_one_rule() -> None:
    """A frame with its mask, both turned; and frames whose masks are not, which the frame's size does not reveal."""
    members = kaggle(subjects=3, frames=1)
    sideways = np.ascontiguousarray(np.rot90(frame(9))), np.ascontiguousarray(np.rot90(mask() * 255))
    members["train/4_1.tif"], members["train/4_1_mask.tif"] = (turned(pixels, "tif", 6) for pixels in sideways)
    members["train/5_1.tif"] = turned(frame(10)[::-1, ::-1].copy(), "tif", 3)
    members["train/5_1_mask.tif"] = image(mask() * 255)
    store = run(members)
    for row, seed in ((3, 9), (4, 10)):
        np.testing.assert_array_equal(store.frame(row), frame(seed))
        np.testing.assert_array_equal(store.mask(row), mask())
    assert found() == [("warning", "orientation", "5_1.tif")]


def test_run_lengths_count_the_turned_frame_and_say_so() -> None:
    members = hydrogen_torch(suffix="jpg")
    members["images/2_1.jpg"] = turned(np.ascontiguousarray(np.rot90(frame(1))), "jpg", 6)
    store = run(members)
    assert store.frame(1).shape == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(store.mask(1), mask())
    assert found() == [("warning", "orientation", "2_1.jpg")]
    assert "read as drawn on the turned frame" in details()[0]


def test_the_chosen_classes_are_the_mask() -> None:
    members = hydrogen_torch()
    table = pd.read_parquet(io.BytesIO(members["train.pq"]))
    artery = table.assign(class_id="1", rle_mask=rle.encode(disc(radius=5)))
    members["train.pq"] = pd.concat([table, artery]).to_parquet(index=False)
    refusal(members)
    assert found() == [("error", "several classes", "train.pq")]
    np.testing.assert_array_equal(run(members, classes=[0]).mask(0), mask())
    np.testing.assert_array_equal(run(members, classes=["1"]).mask(0), disc(radius=5))
    np.testing.assert_array_equal(run(members, classes=[0, 1]).mask(0), mask() | disc(radius=5))


def test_a_member_with_a_bad_crc_is_a_finding() -> None:
    write_zip(paths.DATASET_ZIP, members := hydrogen_torch())
    content = paths.DATASET_ZIP.read_bytes()
    at = content.index(members["images/4_1.png"][40:80]) + 100
    paths.DATASET_ZIP.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(NervesegError, match="1 error;"):
        run()
    assert found() == [("error", "unreadable", "4_1.png")]
    assert "damaged in the zip" in read_json(paths.FINDINGS_JSON)["findings"][0]["detail"]


def test_errors_leave_the_last_good_store_and_success_removes_their_file() -> None:
    run(kaggle())
    before = sha256(paths.PACKED / "frames.npy")
    with pytest.raises(NervesegError):
        run(kaggle() | {"train/9_1.tif": image(frame(1))})
    assert paths.FINDINGS_JSON.exists()
    assert sha256(paths.PACKED / "frames.npy") == before
    run(kaggle())
    assert not paths.FINDINGS_JSON.exists()


def test_identical_pixels_on_two_sides_are_in_the_findings() -> None:
    members = hydrogen_torch(fold=[0, 1, 2, 3, 4, 5])
    members["images/3_1.png"] = members["images/1_1.png"]
    run(members, by="fold", validation_fold=0, test_fold=1)
    assert found() == [
        ("warning", "duplicate frame across subjects", "3_1.png"),
        ("warning", "same pixels on two sides", "3_1.png"),
    ]
    assert read_json(paths.PACKED / "findings.json")["warnings"] == 2


def test_the_stage_as_a_command_prints_one_readable_error() -> None:
    content = (REPOSITORY / paths.PARAMS).read_text(encoding="utf-8")
    paths.PARAMS.write_text(content, encoding="utf-8")
    write_zip(paths.DATASET_ZIP, {"a.txt": b"x"})
    done = subprocess.run([sys.executable, "-m", "nerveseg.stages.split"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "has none of the layouts" in done.stderr
    assert "Traceback" not in done.stderr


needs_real_data = pytest.mark.skipif(not REAL_DATA.exists(), reason="no real frames beside the repository")


@pytest.mark.real_data
@needs_real_data
@pytest.mark.parametrize(("frames", "frames_used"), [("all", 75), ("nonempty", 32)])
def test_real_tif_pairs(frames: str, frames_used: int) -> None:
    content = (REAL_DATA / "nerves_original_tifs.zip").read_bytes()
    paths.DATASET_ZIP.parent.mkdir(parents=True)
    paths.DATASET_ZIP.write_bytes(content)
    store = run(frames=frames)
    assert len(store) == frames_used
    assert (store.index["mask_area"] > 0).sum() == 32
    assert set(zip(store.index["height"], store.index["width"], strict=True)) == {(420, 580)}
    areas = store.index["mask_area"][store.index["mask_area"] > 0]
    assert areas.between(2684, 17439).all()


@pytest.mark.real_data
@needs_real_data
def test_real_frames_are_the_same_in_either_layout() -> None:
    stores = []
    for layout in ("hydrogen-torch", "kaggle"):
        paths.DATASET_ZIP.parent.mkdir(parents=True, exist_ok=True)
        options = ["--layout", layout, "--subjects", "3", "--frames", "4"]
        subprocess.run([sys.executable, REAL_DATA / "build_dataset.py", paths.DATASET_ZIP, *options], check=True)
        store = run(frames="nonempty")
        assert len(store) == 12
        stores.append((store.index.drop(columns=["image", "fold"]), sha256(paths.PACKED / "masks.npy")))
    pd.testing.assert_frame_equal(stores[0][0], stores[1][0])
    assert stores[0][1] == stores[1][1]


# What a wrong reading of the subjects does, and the parameter that mends it.
STUDIES = [f"s{visit * 6 + patient}_p{patient}_{n}.png" for visit in (0, 1) for patient in range(6) for n in (0, 1)]
CLASSES = [f"{kind}_{n}.png" for kind in ("benign", "malignant", "normal") for n in range(8)]
ONE_PREFIX = [f"IMG_{n:04}.png" for n in range(24)]
EACH_FRAME = [f"{n:04}_x.png" for n in range(24)]


def named(names: list[str], **columns: Any) -> dict[str, bytes]:
    """Members of a hydrogen-torch zip with frames of these names, each other noise."""
    images = {f"images/{name}": image(frame(number), "png") for number, name in enumerate(names)}
    return {"train.pq": parquet(image=names, rle_mask=["1 5"] * len(names), **columns)} | images


def patients_on_two_sides(store: FrameStore) -> int:
    patients = store.index["image"].str.extract("_(p[0-9])_", expand=False)
    return int((store.index.groupby(patients)["split"].nunique() > 1).sum())


def shipped() -> str:
    return params.load(REPOSITORY / paths.PARAMS).data.subject


@pytest.mark.parametrize("names", [STUDIES, CLASSES, EACH_FRAME], ids=["studies", "classes", "each frame"])
def test_a_planted_leak_that_the_check_cannot_see_is_doubted(names: list[str]) -> None:
    store = run(named(names), subject=shipped())
    assert {kind for _, kind, _ in found()} == {"doubtful subjects"}
    assert names != STUDIES or patients_on_two_sides(store) > 0


def test_one_prefix_for_all_frames_stops_the_stage_and_says_how_subjects_were_read() -> None:
    text = refusal(named(ONE_PREFIX), subject=shipped())
    read = f"Subjects were read from the file names by data.subject, {shipped()}"
    assert f"{read}. For example: IMG from IMG_0000.png" in text


def test_a_pattern_or_a_column_puts_each_patient_on_one_side() -> None:
    pattern = "s[0-9]+_(?P<subject>p[0-9])_[0-9]"
    by_name = run(named(STUDIES), subject=pattern)
    people = [name.split("_")[1] for name in STUDIES]
    sites = ["ulm" if person < "p3" else "bonn" for person in people]
    by_column = run(named(STUDIES, patient_id=people, site=sites), subject=shipped())
    for store in (by_name, by_column):
        assert store.index["subject"].tolist() == people
        assert patients_on_two_sides(store) == 0
        assert found() == []
        assert store.subjects_known()
    assert by_column.index["site"].tolist() == sites
    assert "site" not in by_name.index


@pytest.mark.parametrize("names", [STUDIES, CLASSES, ONE_PREFIX, EACH_FRAME, [f"{n}.png" for n in range(24)]])
def test_the_leak_check_says_that_it_cannot_see_unknown_subjects(names: list[str]) -> None:
    for by in ("subject", "frame"):
        store = run(named(names), subject="none", by=by)
        assert store.index["subject"].tolist() == store.index["image"].tolist()
        assert ("warning", "unknown subjects", names[0]) in found()
        report = read_json(paths.PACKED / "findings.json")
        assert (report["subjects_known"], report["subject_rule"]) == (False, "none")
        assert "unknown" in report["subjects_read"]


def test_the_leak_check_is_given_names_that_it_cannot_parse() -> None:
    """A split by frame needs no subjects; any other stops."""
    members = named([*STUDIES[:8], "noise.png", "_1.png"])
    store = run(members, subject=shipped(), by="frame")
    subjects = store.index.set_index("image")["subject"]
    assert subjects[["noise.png", "_1.png", "s0_p0_0.png"]].tolist() == ["noise.png", "_1.png", "s0"]
    assert not store.subjects_known()
    assert {"unknown subjects", "the split leaks"} <= {kind for _, kind, _ in found()}
    with pytest.raises(NervesegError, match="2 errors"):
        run(members, subject=shipped())
    assert [image for _, kind, image in found() if kind == "unparseable subject"] == ["_1.png", "noise.png"]


def test_a_patient_in_two_of_the_datasets_own_folds_stops_the_stage_once_the_subject_is_read() -> None:
    members = named(STUDIES, fold=[int(name[1 : name.index("_")]) % 4 for name in STUDIES])
    folds = {"by": "fold", "validation_fold": 0, "test_fold": 1}
    text = refusal(members, subject="s[0-9]+_(?P<subject>p[0-9])_[0-9]", **folds)
    assert "The split leaks" in text
    assert "p0: " in text
    run(members, subject=shipped(), **folds)
    assert {kind for _, kind, _ in found()} == {"doubtful subjects"}


def test_the_same_pixels_under_unknown_subjects_are_compared_with_their_masks() -> None:
    members = named([f"{n}.png" for n in range(12)])
    members["images/5.png"] = members["images/3.png"]
    run(members, subject="none", seed=3)
    assert ("warning", "duplicate frame", "5.png") in found()
    assert not any("across" in kind for _, kind, _ in found())


def test_a_full_disk_leaves_the_former_store() -> None:
    former = run(hydrogen_torch())
    write_zip(paths.DATASET_ZIP, hydrogen_torch(9))
    with largest_file(HEIGHT * WIDTH * 3), pytest.raises(NervesegError, match="data/packed cannot be written"):
        run()
    assert FrameStore.open(paths.PACKED).digest() == former.digest()
    assert sorted(path.name for path in paths.PACKED.parent.iterdir()) == ["packed", "raw"]
