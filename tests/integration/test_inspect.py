"""`nerveseg dataset inspect` on datasets of several kinds: what it says, draws and suggests."""

import functools
import http.server
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import foreign_zips
from dataset_zips import frame, image, kaggle, mask, parquet, write_zip
from dicom_files import regions, segmented, ultrasound
from nerveseg import params, profiles
from nerveseg.cli import app
from nerveseg.data import rle
from nerveseg.settings import settings

REPOSITORY = Path(__file__).parents[2]
PNG = image(frame(1), "png")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a web server with the files of the working directory."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def inspect(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["dataset", "inspect", *arguments])


def said(result: Result) -> str:
    """What the terminal shows, in one line: a cell of a table is folded over several."""
    return " ".join(result.stderr.replace("│", " ").split())


def folds() -> dict[str, bytes]:
    """Eight people at two sites in four folds; the last frame of each is empty."""
    people = range(1, 9)
    names = [f"{person}_{number}.png" for person in people for number in (1, 2)]
    table = parquet(
        image=names,
        class_id="nerve",
        rle_mask=[rle.encode(mask()), ""] * len(people),
        fold=[person % 4 for person in people for _ in range(2)],
        site=["north", "south"] * len(people),
    )
    return {"train.pq": table} | {f"images/{name}": image(frame(seed), "png") for seed, name in enumerate(names)}


def test_it_says_how_a_dataset_is_read_and_writes_the_sections_that_use_it(tmp_path: Path) -> None:
    zip_file = write_zip(tmp_path / "mine.zip", folds())
    result = inspect("mine.zip", "--subject", "(?P<subject>[0-9]+)_.+")
    assert result.exit_code == 0, result.stderr
    shown = said(result)
    assert "Layout: hydrogen-torch, because the table train.pq has the columns image and rle_mask." in shown
    assert "Frames: 16 frames, such as 1_1.png, 1_2.png, 2_1.png" in shown
    assert "Subjects: 8, such as 1 from 1_1.png, 2 from 2_1.png, 3 from 3_1.png." in shown
    assert "Sites: 2, such as north from 1_1.png, south from 1_2.png. They were read from the column site" in shown
    assert "Classes: nerve (8 masks)" in shown
    assert "Folds: 4; fold 0 has 4 frames, such as 4_1.png, 4_2.png, 8_1.png; fold 1" in shown
    assert "Masks: 8 of 16 frames have a nerve" in shown
    assert "Pixel spacing: unknown" in shown
    assert "Sizes: 50x40 (16)" in shown
    assert "subject at several sites" in shown, "the findings"

    Path("overlay.yaml").write_text(result.stdout)
    shutil.copy(REPOSITORY / "params.yaml", "params.yaml")
    profiles.apply(Path("overlay.yaml"))
    used = params.load()
    assert (used.data.uri, used.data.layout) == (zip_file.name, "hydrogen-torch")
    assert used.data.subject == "(?P<subject>[0-9]+)_.+"
    assert (used.split.by, used.split.validation_fold, used.split.test_fold) == ("fold", 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "inspect.html",
        "mine.zip",
        "overlay.yaml",
        "params.yaml",
    ]


def test_folds_that_divide_a_subject_are_not_suggested(tmp_path: Path) -> None:
    names = [f"{person}_{number}.png" for person in range(1, 5) for number in (1, 2)]
    table = parquet(image=names, rle_mask="1 5", fold=[0, 1] * 4)
    write_zip(tmp_path / "a.zip", {"t.pq": table} | {name: image(frame(n), "png") for n, name in enumerate(names)})
    result = inspect("a.zip")
    assert "4 subjects are in several, such as 1" in said(result)
    assert "split:" not in result.stdout


def test_the_sheet_shows_each_subject_empty_masks_and_frames_with_findings(tmp_path: Path) -> None:
    members = kaggle(subjects=70, frames=3)
    members["train/7_2.tif"] = image(frame(0) * 0)
    write_zip(tmp_path / "a.zip", members)
    assert inspect("a.zip", "--out", "sheets/a.html").exit_code == 0
    page = Path("sheets/a.html").read_text()
    labels = re.findall(r'aria-label="([0-9]+_[0-9]\.tif)"', page)
    assert len(labels) == len(set(labels)) == 60
    assert len({label.partition("_")[0] for label in labels if not label.endswith("3.tif")}) >= 47, "of most subjects"
    assert sum(label.endswith("_3.tif") for label in labels) == 12, "empty masks"
    assert labels[0] == "7_2.tif"
    assert "blank frame" in page
    assert page.count('<path class="truth"') == 48, "an empty mask has no outline"
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", page), "nothing is loaded from elsewhere"
    assert "http" not in re.sub(r"http://www.w3.org/\S+", "", page)
    assert [path.name for path in Path("sheets").iterdir()] == ["a.html"]


def test_it_says_where_quarantine_helps(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", kaggle() | {"train/1_2.tif": b"no image"})
    result = inspect("a.zip")
    assert result.exit_code == 1
    assert "would refuse it, unless data.quarantine: true sets 1 of 12 frames aside" in said(result)


def test_a_sheet_is_replaced_but_nothing_else(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", kaggle())
    Path("inspect.html").write_text("<title>My page</title>")
    refused = inspect("a.zip")
    assert refused.exit_code == 1
    assert "inspect.html would be replaced, and is no contact sheet" in refused.stderr
    assert Path("inspect.html").read_text() == "<title>My page</title>"
    assert inspect("a.zip", "--out", "other.html").exit_code == 0
    assert inspect("a.zip", "--out", "other.html").exit_code == 0


def test_parameters_of_the_folder_hold_unless_options_say_otherwise(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "params.yaml", "params.yaml")
    profiles.override({"data.subject": "[^_]+_(?P<subject>[^_]+)_.+"}, Path("params.yaml"))
    write_zip(tmp_path / "a.zip", foreign_zips.studies())
    assert "Subjects: 5, such as 01 from A_01_1.png" in said(inspect("a.zip"))
    assert "Subjects: none. Subjects are unknown" in said(inspect("a.zip", "--subject", "none"))
    refused = inspect("a.zip", "--subject", "(?P<person>.+)")
    assert refused.exit_code == 1
    assert "--subject: a pattern has one group (?P<subject>...)" in refused.stderr


def test_several_classes_are_listed_and_none_is_chosen(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", foreign_zips.several_classes())
    result = inspect("a.zip")
    assert result.exit_code == 1
    assert "Classes: nerve (6 masks), artery (6 masks). Nothing says which of them are nerve" in said(result)
    assert "such as `classes: [nerve]`" in said(result)
    assert "classes: null" in result.stdout
    assert "the split stage would refuse it. Change" in said(result)
    chosen = inspect("a.zip", "--classes", "nerve")
    assert chosen.exit_code == 0
    assert "artery (6 masks). Read as nerve: nerve" in said(chosen)
    assert "classes: [nerve]" in chosen.stdout


def test_labels_of_nnunet_are_listed(tmp_path: Path) -> None:
    members = foreign_zips.nnunet()
    described = "Dataset070_Nerves/dataset.json"
    members[described] = members[described].replace(b'"nerve": 1', b'"vein": 3, "nerve": 1')
    write_zip(tmp_path / "a.zip", members)
    shown = said(inspect("a.zip"))
    assert "Classes: vein, nerve, artery. Nothing says which of them are nerve" in shown
    assert "such as `classes: [nerve]`" in shown
    assert "such as data.classes: [nerve]" in shown
    assert "Classes: vein, nerve, artery. Read as nerve: 1" in said(inspect("a.zip", "--classes", "1"))


def test_classes_in_the_names_of_masks_are_listed(tmp_path: Path) -> None:
    members = {f"{n}_1.png": image(frame(n), "png") for n in (1, 2, 3)}
    members |= {f"{n}_1_mask_{label}.png": image(mask(n), "png") for n in (1, 2, 3) for label in ("artery", "nerve")}
    del members["3_1_mask_nerve.png"]
    write_zip(tmp_path / "a.zip", members)
    shown = said(inspect("a.zip"))
    assert "Classes: artery (3 masks), nerve (2 masks). Nothing says which of them are nerve" in shown
    assert "such as `classes: [nerve]`" in shown
    assert "such as data.classes: [nerve]" in shown


def test_segments_and_pixel_spacing_of_dicom_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NERVESEG_IDENTITY_KEY", "a key of the tests")
    settings.cache_clear()
    members = {}
    for number in (1, 2, 3):
        spaced = {"SequenceOfUltrasoundRegions": regions({})} if number < 3 else {}
        members[f"{number}"] = source = ultrasound(frame(number), number, **spaced)
        members[f"{number} seg"] = segmented(source, np.dstack([mask(30), mask(40)]), ("artery", "nerve"))
    write_zip(tmp_path / "a.zip", members)
    shown = said(inspect("a.zip", "--classes", "nerve"))
    assert "Classes: artery (3 masks), nerve (3 masks). Read as nerve: nerve" in shown
    assert "Pixel spacing: 0.2 mm between rows and 0.1 mm between columns (2), unknown (1)" in shown
    settings.cache_clear()


def test_masks_of_several_values_can_be_read_once_one_is_chosen(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", foreign_zips.label_maps())
    shown = said(inspect("a.zip"))
    assert "Sizes: unknown" in shown
    assert "inspect.html has no frames: none can be read" in shown
    chosen = said(inspect("a.zip", "--classes", "1"))
    assert "in data.classes are background: #020202 in 6 masks, such as that of 1_1.jpeg" in chosen, "and no #010101"


def test_a_folder_is_read_in_place(tmp_path: Path) -> None:
    for name, content in kaggle().items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(content)
    (tmp_path / "mine/.git").mkdir()
    (tmp_path / "mine/.git/1_1_mask.tif").write_bytes(b"")
    result = inspect("mine/")
    assert result.exit_code == 0, result.stderr
    assert "Dataset: mine/, 24 files: 24 .tif in train/" in said(result)
    assert "Classes: the masks have no names of classes" in said(result)
    assert "uri: mine/" in result.stdout
    (tmp_path / "mine/2_1.tif").symlink_to("/etc/hostname")
    refused = inspect("mine/")
    assert refused.exit_code == 1
    assert "'2_1.tif' is a link that leads out of the folder" in refused.stderr


def test_a_zip_from_the_web_is_not_kept(tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    write_zip(tmp_path / "a.zip", kaggle())
    result = inspect(f"{web}/a.zip?signature=secret")
    assert result.exit_code == 0, result.stderr
    assert f"uri: {web}/a.zip\n" in result.stdout
    assert "secret" not in result.output + Path("inspect.html").read_text()
    assert list(temporary.iterdir()) == []
    assert "Contact sheet of a.zip" in Path("inspect.html").read_text()


def test_where_two_layouts_fit_it_says_both_and_how_to_choose(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.zip", kaggle() | {"train.pq": parquet(image=["1_1.tif"], rle_mask=["1 5"])})
    result = inspect("a.zip")
    assert result.exit_code == 1
    assert "hydrogen-torch, because the table train.pq has" in result.stderr
    assert "pairs, because 12 frames have masks, such as train/1_1.tif with train/1_1_mask.tif" in result.stderr
    assert "--layout hydrogen-torch and --layout pairs" in said(result)
    chosen = inspect("a.zip", "--layout", "pairs")
    assert "Layout: pairs" in chosen.stderr
    assert "layout: pairs" in chosen.stdout
    assert (
        "There is no layout pears: use auto, dicom, hydrogen-torch, pairs"
        in inspect("a.zip", "--layout", "pears").stderr
    )


@pytest.mark.parametrize(
    ("members", "nearest"),
    [
        pytest.param(
            {f"a/{n}{end}.png": PNG for n in range(3) for end in ("", "_roi")},
            "Nearest is pairs: 3 images are named as another with _roi at the end",
            id="another ending",
        ),
        pytest.param(
            {f"{folder}/{n}.png": PNG for n in range(3) for folder in ("frames", "drawn")},
            "Nearest is pairs: 3 images have the same name in drawn/ and frames/",
            id="two folders",
        ),
        pytest.param(
            {"1.png": PNG, "labels.csv": b"ImageId,EncodedPixels\n1,1 5\n"},
            "Nearest is hydrogen-torch: labels.csv has the columns ImageId and EncodedPixels",
            id="columns with other names",
        ),
        pytest.param(
            {"1.png": PNG, "labels.csv": b"filename,diagnosis\n1.png,x\n"},
            "labels.csv has the column filename, but none that looks like run lengths; its columns are filename, diag",
            id="a table without masks",
        ),
        pytest.param(
            {"1.png": PNG, "all.json": b"{}"}, "Nearest is coco, because of its .json files (1)", id="JSON of no layout"
        ),
        pytest.param({"1.png": PNG}, "it has images, but none is named as a mask", id="only images"),
        pytest.param({"scan.mp4": b"x"}, "None of them is near: it has 1 .mp4 in ./", id="nothing"),
    ],
)
def test_where_no_layout_fits_it_says_what_is_nearest_and_the_ways_out(
    tmp_path: Path, members: dict[str, bytes], nearest: str
) -> None:
    write_zip(tmp_path / "a.zip", members)
    result = inspect("a.zip")
    assert result.exit_code == 1
    assert nearest in said(result)
    assert "1. name each mask as its frame with _mask" in said(result)
    assert "nerveseg dataset build" in said(result)
    assert result.stdout == ""
    assert not Path("inspect.html").exists()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    result = inspect("nowhere.zip")
    assert result.exit_code == 1
    assert f"nowhere.zip is missing (looked in {tmp_path})" in said(result)
