"""Datasets as others make them, in the split stage: each is read rightly, or a newcomer is told what to do.

`pytest -rP tests/integration/test_foreign_datasets.py` shows what the terminal says to each.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import foreign_zips
from dataset_zips import frame, write_zip
from nerveseg import params, paths
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.stages import split

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def say(members: dict[str, bytes], capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[str, bool]:
    """Runs the stage with params.yaml's own values but for these; returns what the terminal says, in one line, and
    whether the dataset was accepted."""
    write_zip(paths.DATASET_ZIP, members)
    content = params.read_yaml(REPOSITORY / paths.PARAMS)
    content["data"]["frames"] = "all"
    for name, value in changes.items():
        section, _, key = name.partition("__")
        content[section][key] = value
    accepted, error = True, ""
    try:
        split.run(params.parse(content, "params"))
    except NervesegError as refusal:
        accepted, error = False, f"error: {refusal}"
    captured = capsys.readouterr()
    said = captured.err + error
    print(captured.out + said)
    cells = said.replace("│", " ")  # a cell of the table is folded over several lines
    return " ".join(cells.split()), accepted


def require_exact(lossy: bool = False) -> None:
    """Every stored frame and mask is the one of its seed."""
    store = FrameStore.open(paths.PACKED)
    assert len(store) == 6
    for row in range(6):
        np.testing.assert_array_equal(store.mask(row), foreign_zips.nerve(row))
        if not lossy:
            np.testing.assert_array_equal(store.frame(row), frame(row))


def test_studies_are_not_taken_for_people_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    said, _ = say(foreign_zips.studies(), capsys)
    assert "doubtful subjects" in said
    assert "A from A_01_1.png" in said, "it shows names and what was read from them"
    assert "data.subject" in said

    said, accepted = say(foreign_zips.studies(), capsys, data__subject="[^_]+_(?P<subject>[^_]+)_.+")
    assert accepted
    assert "doubtful" not in said
    index = FrameStore.open(paths.PACKED).index
    assert sorted(index["subject"].unique()) == ["01", "02", "03", "04", "05"]
    assert (index.groupby("subject")["split"].nunique() == 1).all()


def test_frames_that_name_nobody_are_not_one_person_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    said, accepted = say(foreign_zips.no_subjects(), capsys)
    assert not accepted
    assert "Too few subjects: of 1 with frames" in said
    assert "IMG from IMG_0001.png" in said
    assert "data.subject" in said

    said, accepted = say(foreign_zips.no_subjects(), capsys, data__subject="none")
    assert accepted
    assert "unknown subjects" in said
    assert "too narrow" in said


def test_classes_are_not_taken_for_people_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    said, _ = say(foreign_zips.class_prefixes(), capsys)
    assert "doubtful subjects" in said
    assert "benign, malignant, normal" in said
    assert "data.subject" in said


@pytest.mark.parametrize(
    "members",
    [
        pytest.param(foreign_zips.palettes, id="palettes by their indices"),
        pytest.param(foreign_zips.alpha_masks, id="masks in the alpha channel"),
        pytest.param(foreign_zips.turned, id="frames and masks turned as they say"),
    ],
)
def test_masks_of_other_kinds_are_read(
    members: Callable[[], dict[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    said, accepted = say(members(), capsys)
    assert accepted, said
    assert "The dataset has" not in said, "nothing is wrong with it"
    require_exact()


def test_photographs_are_turned_as_they_say_and_their_run_lengths_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said, accepted = say(foreign_zips.turned_photographs(), capsys)
    assert accepted, said
    require_exact(lossy=True)
    stored, drawn = FrameStore.open(paths.PACKED).frame(0), frame(0)
    assert np.abs(stored.astype(int) - drawn).max() <= 3
    assert "orientation" in said, "run lengths may be those of the stored pixels"


@pytest.mark.parametrize(
    ("members", "classes", "words"),
    [
        pytest.param(foreign_zips.label_maps, [1], ["several mask values", "#010101 in 6 masks"], id="label maps"),
        pytest.param(foreign_zips.nnunet, ["nerve"], ["several classes", "nerve (1), artery (2)"], id="nnU-Net"),
    ],
)
def test_an_artery_in_a_label_map_does_not_become_nerve(
    members: Callable[[], dict[str, bytes]],
    classes: list[int | str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    said, accepted = say(members(), capsys)
    assert not accepted
    assert all(each in said for each in [*words, "data.classes"])

    said, accepted = say(members(), capsys, data__classes=classes)
    assert accepted, said
    require_exact(lossy=members is foreign_zips.label_maps)


def test_busi_is_read_as_published(capsys: pytest.CaptureFixture[str]) -> None:
    said, accepted = say(foreign_zips.busi(), capsys)
    assert not accepted
    assert "does not match data.subject" in said, "its names tell nobody"
    said, accepted = say(foreign_zips.busi(), capsys, data__subject="none")
    assert accepted, said
    index = FrameStore.open(paths.PACKED).index
    for row, image in enumerate(index["image"]):
        seed = int(image.partition("(")[2].partition(")")[0]) - 1
        np.testing.assert_array_equal(FrameStore.open(paths.PACKED).mask(row), foreign_zips.nerve(seed))


def test_an_artery_does_not_become_nerve(capsys: pytest.CaptureFixture[str]) -> None:
    said, accepted = say(foreign_zips.several_classes(), capsys)
    assert not accepted
    assert "several classes" in said
    assert "nerve (6 masks)" in said
    assert "artery (6 masks)" in said
    assert "data.classes" in said

    said, accepted = say(foreign_zips.several_classes(), capsys, data__classes=["nerve"])
    assert accepted, said
    require_exact()
