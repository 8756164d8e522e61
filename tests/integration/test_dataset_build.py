"""`nerveseg dataset build` on folders of several kinds: what it writes, and what it refuses."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import foreign_zips
from dataset_zips import frame, image, kaggle, mask, parquet
from dicom_files import regions, ultrasound
from nerveseg import params, paths, profiles
from nerveseg.cli import app
from nerveseg.data import rle
from nerveseg.data.archive import Archive, Folder
from nerveseg.data.frame_store import FrameStore
from nerveseg.data.layouts import detect
from nerveseg.data.layouts.dataset import Choices
from nerveseg.data.names import MASK_SUFFIXES
from nerveseg.settings import settings
from nerveseg.stages import split

REPOSITORY = Path(__file__).parents[2]
PATTERN = "(?P<subject>[^_]+)_.+"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    settings.cache_clear()


def build(members: Mapping[str, bytes], *options: str, subject: str | None = PATTERN) -> Result:
    """Writes a folder, and builds out.zip of it."""
    for name, content in members.items():
        path = Path("in") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    rule = ["--subject", subject] if subject else []
    return CliRunner().invoke(app, ["dataset", "build", "in", "out.zip", *rule, *options])


def pixels(archive: Archive) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Frames and masks by the names of the frames, without the suffix."""
    found = {}
    for record in detect.find(archive, "auto", Choices(mask_suffixes=MASK_SUFFIXES)).records:
        read = record.frame.read(archive).pixels
        assert record.mask is not None
        found[record.image.rpartition(".")[0]] = read, record.mask.read(archive, read).pixels
    return found


def table() -> pd.DataFrame:
    with zipfile.ZipFile("out.zip") as archive:
        return pd.read_parquet(io.BytesIO(archive.read("train.parquet")))


def said(result: Result) -> str:
    """What the terminal shows, in one line: a cell of a table is folded over several."""
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    "members",
    [
        kaggle(),
        foreign_zips.palettes(),
        foreign_zips.alpha_masks(),
        foreign_zips.turned(),
        foreign_zips.turned_photographs(),
    ],
    ids=["kaggle", "palettes", "alpha masks", "turned", "turned photographs"],
)
def test_frames_and_masks_are_those_of_the_folder(members: dict[str, bytes]) -> None:
    result = build(members)
    assert result.exit_code == 0, result.stderr
    with Folder(Path("in")) as before, Archive(Path("out.zip")) as after:
        expected, found = pixels(before), pixels(after)
        assert len(expected) == len(table())
        assert all(name.endswith((".png", ".parquet")) for name in after.names)
        np.testing.assert_equal(found, expected)
    first = Path("out.zip").read_bytes()
    assert build(members).exit_code == 0
    assert Path("out.zip").read_bytes() == first


def test_folds_subjects_and_sites_are_kept(tmp_path: Path) -> None:
    names = [f"{person}_{number}.bmp" for person in (1, 2, 10) for number in (1, 2)]
    columns = {
        "image": names,
        "rle_mask": [rle.encode(mask()), ""] * 3,
        "fold": [0, 0, 1, 1, 2, 2],
        "patient_id": ["a", "a", "b", "b", "c", "c"],
        "site": ["north", "north", "south", "south", "south", "south"],
    }
    images = {f"deep/down/{name}": image(frame(seed), "bmp") for seed, name in enumerate(names)}
    result = build({"t.csv": pd.DataFrame(columns).to_csv(index=False).encode()} | images)
    assert result.exit_code == 0, result.stderr
    assert "out.zip has 6 frames, 3 of them with a nerve." in said(result)
    assert "Subjects were read from the column patient_id of t.csv" in said(result)
    expected = pd.DataFrame(columns).rename(columns={"patient_id": "subject"})
    expected["image"] = [name.replace(".bmp", ".png") for name in names]
    pd.testing.assert_frame_equal(table()[expected.columns], expected, check_dtype=False)


def test_dicom_files_are_built_under_other_names_and_the_loss_of_their_spacing_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members = {}
    for number, person in enumerate(("Zyxdoe^Ann", "Zyxdoe^Bea"), start=1):
        spaced = {"SequenceOfUltrasoundRegions": regions({}), "PatientName": person}
        members[f"{person}/{person}.dcm"] = ultrasound(frame(number), number, person, **spaced)
        members[f"{person}/{person}_mask.png"] = image(mask(30) * 255, "png")
    monkeypatch.setenv("NERVESEG_IDENTITY_KEY", "")
    settings.cache_clear()
    without = build(members)
    assert without.exit_code == 1
    assert not Path("out.zip").exists()
    monkeypatch.setenv("NERVESEG_IDENTITY_KEY", "a key of the tests")
    settings.cache_clear()
    result = build({})
    assert result.exit_code == 0, result.stderr
    assert "The pixel spacing of 2 frames is left out: for metrics in mm, point data.uri at in instead" in said(result)
    assert b"Zyxdoe" not in Path("out.zip").read_bytes() + (result.stderr + without.stderr).encode()
    assert table()["subject"].nunique() == 2
    Path("in").rename("Zyxdoe")
    sheet = CliRunner().invoke(app, ["dataset", "inspect", "Zyxdoe", "--out", "sheet.html"])
    assert sheet.exit_code == 0, sheet.stderr
    assert "Zyxdoe" not in Path("sheet.html").read_text()


def test_what_is_unknown_has_no_column() -> None:
    assert build(kaggle(), subject="none").exit_code == 0
    assert list(table()) == ["image", "rle_mask"]


def test_the_split_stage_takes_the_zip(tmp_path: Path) -> None:
    content = params.read_yaml(REPOSITORY / paths.PARAMS)
    assert build(kaggle(subjects=6)).exit_code == 0
    paths.DATASET_ZIP.parent.mkdir(parents=True)
    Path("out.zip").rename(paths.DATASET_ZIP)
    split.run(params.parse(content, "params"))
    store = FrameStore.open(paths.PACKED)
    assert sorted(set(store.index["subject"])) == list("123456")
    for row, name in enumerate(store.index["image"]):
        person, number = map(int, name.removesuffix(".png").split("_"))
        np.testing.assert_array_equal(store.frame(row), frame(100 * person + number))
        np.testing.assert_array_equal(store.mask(row), mask(30))


def test_subjects_and_classes_are_read_as_params_yaml_here_says() -> None:
    assert "by data.subject, (?P<subject>[^_]+)_.+" in said(build(kaggle(), subject=None)), "as it is shipped"
    Path("params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    profiles.override({"data.subject": "(?P<subject>.)_(?P<site>.)", "data.classes": ["nerve"]}, paths.PARAMS)
    members = foreign_zips.several_classes()
    result = build({f"more/{name}": content for name, content in members.items()}, subject=None)
    assert result.exit_code == 1, "kaggle's pairs are there too"
    assert "fits several layouts" in said(result)
    assert "There is no layout kagle: use auto, dicom, hydrogen-torch" in said(build({}, "--layout", "kagle"))
    result = build({}, "--layout", "hydrogen-torch", subject=None)
    assert result.exit_code == 0, result.stderr
    found = table()
    assert found["subject"].tolist() == ["1", "1", "2", "2", "3", "3"]
    assert found["site"].tolist() == ["1", "2"] * 3
    assert found["rle_mask"].tolist() == [rle.encode(foreign_zips.nerve(seed)) for seed in range(6)]
    assert "--subject: a pattern has one group" in said(
        build({}, "--layout", "hydrogen-torch", subject="(?P<person>.)")
    )


def test_a_dataset_with_errors_is_refused_with_a_table_and_nothing_is_written() -> None:
    assert build(kaggle()).exit_code == 0
    former = Path("out.zip").read_bytes()
    Path("in/train/3_1_mask.tif").unlink()
    Path("in/train/4_1_mask.tif").write_bytes(b"no image")
    result = build({})
    assert result.exit_code == 1
    assert "missing mask" in said(result)
    assert "unreadable" in said(result)
    assert "in has 2 errors; nothing was written" in said(result)
    assert "Traceback" not in result.stderr
    assert Path("out.zip").read_bytes() == former
    assert sorted(path.name for path in Path().iterdir()) == ["in", "out.zip"]


def test_two_frames_never_share_a_name() -> None:
    names = ["1_1.png", "1_1.jpg"]
    members = {"t.pq": parquet(image=names, rle_mask=""), "1_1.png": image(frame(1), "png")}
    result = build(members | {"1_1.jpg": image(frame(2), "jpg")})
    assert "1_1.jpg and 1_1.png would both be 1_1.png in the zip: rename one" in said(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in", "in/out.zip"], "in/out.zip lies in in, of which it would become a part"),
        (["in", "notes.txt"], "notes.txt is there and is no zip"),
        (["gone", "out.zip"], "gone"),
        (["notes.txt", "out.zip"], "notes.txt"),
        (["in", "notes.txt/out.zip"], "notes.txt cannot be read or written"),
        (["in", "notes.txt/deep/out.zip"], "notes.txt/deep cannot be read or written"),
        (["in", "out.zip", "--classes", "1,"], "--classes: a name is empty"),
    ],
)
def test_paths_that_cannot_be_meant(arguments: list[str], message: str) -> None:
    assert build(kaggle()).exit_code == 0
    Path("notes.txt").write_text("notes")
    result = CliRunner().invoke(app, ["dataset", "build", *arguments, "--subject", PATTERN])
    assert result.exit_code == 1
    assert message in said(result)
    assert Path("notes.txt").read_text() == "notes"
