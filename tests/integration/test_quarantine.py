"""Quarantine: frames with errors are set aside, which all that is made of the dataset says; what it cannot do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_zips import HEIGHT, WIDTH, frame, image, kaggle, mask, parquet, write_zip
from nerveseg import params, paths
from nerveseg.data import rle
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.files import read_json
from nerveseg.report import page, sections
from nerveseg.stages import split

REPOSITORY = Path(__file__).parents[2]
BAD = "3_2.png"


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(members: dict[str, bytes], *, quarantine: bool = True, cap: float = 0.05, **changes: Any) -> FrameStore:
    """Runs the stage on a zip of these members with params.yaml's own values but for these changes of `split`."""
    write_zip(paths.DATASET_ZIP, members)
    content = params.read_yaml(REPOSITORY / paths.PARAMS)
    given = {"quarantine": quarantine, "quarantine_cap": cap, "subject": "(?P<subject>[0-9]+)_[0-9]+"}
    content["data"] |= given
    content["split"] |= changes
    split.run(params.parse(content, "params"))
    return FrameStore.open(paths.PACKED)


def refusal(members: dict[str, bytes], **changes: Any) -> str:
    with pytest.raises(NervesegError) as error:
        run(members, **changes)
    assert not paths.PACKED.exists()
    return str(error.value)


def listed(names: list[str] | None = None, **columns: Any) -> dict[str, bytes]:
    """Six subjects with five frames each, or frames of these names, as a table lists them."""
    names = names or [f"{subject}_{number}.png" for subject in range(1, 7) for number in range(1, 6)]
    table = {"image": names, "class_id": "0", "rle_mask": [rle.encode(mask())] * len(names)} | columns
    return {"train.pq": parquet(**table)} | {f"images/{name}": image(frame(n), "png") for n, name in enumerate(names)}


def with_errors(*names: str) -> dict[str, bytes]:
    return listed() | {f"images/{name}": b"no image" for name in names}


def test_one_bad_frame_of_30_is_set_aside_and_all_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    store = run(with_errors(BAD))
    assert len(store) == 29
    assert BAD not in set(store.index["image"])
    np.testing.assert_array_equal(store.frame(11), frame(12))  # the frame after it
    report = read_json(paths.PACKED / "findings.json")
    assert (report["frames"], report["frames_used"], report["frames_set_aside"], report["errors"]) == (30, 29, 1, 1)
    ((aside, reasons),) = [(each["image"], each["reasons"]) for each in report["set_aside"]]
    assert aside == BAD
    assert [reason.partition(":")[0] for reason in reasons] == ["unreadable"]
    assert f"Frames set aside because of errors: 1 of 30. {paths.PACKED}/findings.json lists" in capsys.readouterr().err
    assert store.set_aside() == "1 of 30"
    html = page.render("", "", sections.set_aside(store)).html
    assert 'id="set-aside"' in html
    assert f'<td class="word">{BAD}</td>' in html
    assert "unreadable: " in html


def test_without_quarantine_one_bad_frame_rejects_the_dataset() -> None:
    assert "has 1 error; nothing was stored" in refusal(with_errors(BAD), quarantine=False)
    report = read_json(paths.FINDINGS_JSON)
    assert not {"set_aside", "frames_set_aside"} & set(report)
    assert [finding["image"] for finding in report["findings"]] == [BAD]


def test_a_dataset_without_errors_is_the_same_with_quarantine() -> None:
    content = [(store.digest(), store.set_aside()) for store in (run(listed(), quarantine=q) for q in (False, True))]
    assert content[0] == content[1]
    report = read_json(paths.PACKED / "findings.json")
    assert (report["frames"], report["frames_set_aside"], report["set_aside"]) == (30, 0, [])
    assert sections.set_aside(FrameStore.open(paths.PACKED)) == []


def test_more_frames_than_the_cap_allows_are_refused_with_the_numbers() -> None:
    three = with_errors("1_1.png", "2_1.png", "2_2.png")
    text = refusal(three)
    assert "has errors in 3 of 30 frames, 10 %, more than the 5 % that may be set aside (data.quarantine_cap)" in text
    assert read_json(paths.FINDINGS_JSON)["frames_used"] == 0
    assert len(run(three, cap=0.1)) == 27, "just the cap"


def test_every_error_of_a_frame_sets_it_aside_whoever_finds_it() -> None:
    """In the table, in the name, in the image, in the mask, and a row without its image."""
    names = [f"{subject}_{number}.png" for subject in range(1, 7) for number in range(1, 6)]
    names[3] = "noise.png"
    twice, runs = [*names, names[7], "7_1.png"], [rle.encode(mask())] * 32
    runs[9] = "1 2 3"
    runs[11] = rle.encode(1 - mask())
    members = listed(names) | {f"images/{names[5]}": b"no image"}
    members["train.pq"] = parquet(image=twice, class_id="0", rle_mask=runs, fold=[0] * 30 + [1, 0])
    store = run(members, cap=0.2)
    report = read_json(paths.PACKED / "findings.json")
    kinds = {each["image"]: [reason.partition(":")[0] for reason in each["reasons"]] for each in report["set_aside"]}
    assert kinds == {
        "7_1.png": ["missing frame"],
        "noise.png": ["unparseable subject"],
        names[5]: ["unreadable"],
        names[7]: ["conflicting folds"],
        names[9]: ["run lengths"],
        names[11]: ["mask over half the frame"],
    }
    assert (report["frames"], report["frames_used"], len(store)) == (31, 25, 25)
    assert set(store.index["image"]) == set(names) - set(kinds)


def test_a_frame_whose_subject_cannot_be_read_is_never_put_in_as_unknown() -> None:
    names = [*(f"{subject}_{number}.png" for subject in range(1, 7) for number in range(1, 6)), "noise.png"]
    by_subject, by_frame = (run(listed(names), by=by).index for by in ("subject", "frame"))
    for index in (by_subject, by_frame):
        assert "noise.png" not in set(index["image"]) | set(index["subject"])
    assert by_subject["image"].tolist() == by_frame["image"].tolist(), "as the leakage audit needs"
    report = read_json(paths.PACKED / "findings.json")
    assert (report["subjects_known"], report["subjects"]) == (True, 6)
    assert "have none" not in report["subjects_read"]


def test_frames_set_aside_are_compared_with_no_other() -> None:
    """Neither their pixels nor the values of their masks say anything about the frames that are used."""
    members = kaggle(subjects=10, frames=3)
    inverted = np.where(mask(30) > 0, 0, 7).astype(np.uint8)
    members |= {"train/4_1.tif": members["train/2_1.tif"], "train/4_1_mask.tif": image(inverted)}
    assert len(run(members)) == 19, "the last frame of each subject has no nerve"
    kinds = [each["kind"] for each in read_json(paths.PACKED / "findings.json")["findings"]]
    assert kinds == ["mask over half the frame"]


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        (listed(class_id=["nerve", "artery"] * 15), "several classes"),
        (kaggle() | {"train/2_1_mask.tif": image(mask(30))}, "several mask values"),
        (listed() | {f"more/{BAD}": image(frame(99), "png")}, "duplicate name"),
        (listed(image=[None, *(f"{s}_{n}.png" for s in range(1, 7) for n in range(1, 6))][:30]), "missing frame"),
    ],
)
def test_errors_of_more_than_single_frames_still_reject_the_dataset(members: dict[str, bytes], kind: str) -> None:
    members = members | {"images/5_5.png": b"no image"} if "images/5_5.png" in members else members
    text = refusal(members, cap=0.9)
    assert f"has 1 error of more than single frames ({kind}), which data.quarantine cannot set aside" in text


def test_contradictory_labels_of_the_same_pixels_are_found_among_the_frames_that_are_used() -> None:
    members = with_errors(BAD)
    members["images/1_2.png"] = members["images/1_1.png"]
    members["images/2_1.png"] = members["images/1_1.png"]
    names = [f"{subject}_{number}.png" for subject in range(1, 7) for number in range(1, 6)]
    runs = [rle.encode(mask())] * 30
    runs[1] = rle.encode(mask(50, HEIGHT, WIDTH))
    store = run(members | {"train.pq": parquet(image=names, class_id="0", rle_mask=runs)})
    found = {(each["kind"], each["image"]) for each in read_json(paths.PACKED / "findings.json")["findings"]}
    assert {("contradictory masks", "1_2.png"), ("duplicate frame across subjects", "2_1.png")} <= found
    sides = store.index.set_index("subject")["split"]
    assert set(sides["1"]) == set(sides["2"]), "their subjects are on one side"
