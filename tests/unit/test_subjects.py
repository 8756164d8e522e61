"""Which subject and site is read for a frame, and when the reading is doubted."""

import time
from collections.abc import Sequence

import pytest

from nerveseg import params
from nerveseg.data import subjects
from nerveseg.data.decoding import ImageFile
from nerveseg.data.layouts.dataset import Dataset, Record
from nerveseg.data.names import FIRST_PART
from nerveseg.errors import NervesegError


def dataset(names: Sequence[str], table: str = "", **columns: Sequence[str]) -> Dataset:
    """Frames with these names, and values of a table's columns subject, patient_id, site or others."""
    people = columns.get("subject") or columns.get("patient_id") or [""] * len(names)
    sites = columns.get("site") or [""] * len(names)
    rows = zip(names, people, sites, strict=True)
    records = [Record(name, person, ImageFile(name), site=site) for name, person, site in rows]
    column = next((name for name in subjects.SUBJECT_COLUMNS if name in columns), "")
    return Dataset(
        "hydrogen-torch",
        records,
        table=table,
        columns=("image", "rle_mask", *columns),
        subject_from=f"the column {column} of {table}" if column else "",
        site_from=f"the column site of {table}" if "site" in columns else "",
    )


def assign(found: Dataset, rule: str = FIRST_PART, *, required: bool = True) -> Dataset:
    return subjects.assign(found, rule, required=required)


def read(found: Dataset) -> list[tuple[str, str]]:
    return [(record.subject, record.site) for record in found.records]


def kinds(found: Dataset) -> list[tuple[str, str, str]]:
    return [(finding.severity, finding.kind, finding.image) for finding in found.findings]


def many(form: str, people: int = 6, frames: int = 5) -> list[str]:
    return [form.format(person, number) for person in range(1, people + 1) for number in range(1, frames + 1)]


def test_the_shipped_pattern_is_the_one_that_is_doubted() -> None:
    assert params.load().data.subject == FIRST_PART


@pytest.mark.parametrize("name", ["12_34.tif", "a_b_c.png", "ä b_.x_1.png", "1__2.png", "p.1_2.png", "a_b\nc.png"])
def test_the_shipped_pattern_reads_the_text_before_the_first_underscore(name: str) -> None:
    assert assign(dataset([name, "1_1.png"])).records[0].subject == name.partition("_")[0]


def test_a_name_that_the_pattern_does_not_match_is_an_error_unless_no_subject_is_needed() -> None:
    names = ["noise.png", "_1.png", "1_.png", "1_1.png"]
    found = assign(dataset(names))
    assert kinds(found) == [("error", "unparseable subject", name) for name in names[:3]]
    assert FIRST_PART in found.findings[0].detail
    by_frame = assign(dataset(names), required=False)
    assert kinds(by_frame) == []
    assert read(by_frame) == [("", ""), ("", ""), ("", ""), ("1", "")]
    assert "3 frames have none" in subjects.described(by_frame)


def test_a_pattern_may_name_the_site() -> None:
    found = assign(dataset(["ulm_p1_1.png", "bonn_p2_7.png"]), "(?P<site>[a-z]+)_(?P<subject>p[0-9]+)_[0-9]+")
    assert read(found) == [("p1", "ulm"), ("p2", "bonn")]
    assert kinds(found) == []
    joined = assign(dataset(["ulm_1_1.png", "bonn_1_7.png"]), "(?P<subject>(?P<site>[a-z]+)_[0-9]+)_.+")
    assert read(joined) == [("ulm_1", "ulm"), ("bonn_1", "bonn")]
    optional = assign(dataset(["1_1.png", "2_1_ulm.png"]), "(?P<subject>[0-9]+)_[0-9]+(?:_(?P<site>[a-z]+))?")
    assert read(optional) == [("1", ""), ("2", "ulm")]


def test_the_pattern_matches_the_whole_name() -> None:
    found = assign(dataset(["x12_3.png", "12_3x.png", "12_3.png"]), "(?P<subject>[0-9]+)_[0-9]+|(?P<site>none)")
    assert [record.subject for record in found.records] == ["", "", "12"]


def test_no_pattern_takes_exponential_time() -> None:
    began = time.monotonic()
    found = assign(dataset([f"{'a' * 60_000}!.png"]), "(?P<subject>(?:a+)+)b")
    assert read(found) == [("", "")]
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("column", ["subject", "patient_id"])
@pytest.mark.parametrize("rule", [FIRST_PART, "column", "(?P<subject>x)"])
def test_a_column_goes_before_any_pattern(column: str, rule: str) -> None:
    found = assign(dataset(["1_1.png", "1_2.png"], "t.pq", site=["x", ""], **{column: ["p", "q"]}), rule)
    assert read(found) == [("p", "x"), ("q", "")]
    assert subjects.described(found) == f"Subjects were read from the column {column} of t.pq."
    assert found.subject_rule == "column"
    assert kinds(found) == []


def test_a_missing_subject_in_the_column_is_an_error_whatever_the_name_says() -> None:
    found = assign(dataset(["1_1.png", "2_1.png"], "t.pq", subject=["p", ""]))
    assert kinds(found) == [("error", "missing subject", "2_1.png")]
    assert "has no subject in the column subject of t.pq" in found.findings[0].detail


@pytest.mark.parametrize(("table", "words"), [("t.pq", "t.pq has neither"), ("", "the dataset has no table")])
def test_column_without_a_column_is_a_clear_error(table: str, words: str) -> None:
    with pytest.raises(NervesegError, match=f"data.subject is column.*subject or patient_id.*{words}"):
        assign(dataset(["1_1.png"], table), "column")


def test_none_reads_nobody_and_says_so() -> None:
    found = assign(dataset(["IMG_1.png", "x.png"], "t.pq", subject=["p", "q"], site=["ulm", "bonn"]), "none")
    assert read(found) == [("", "ulm"), ("", "bonn")]
    assert "unknown" in subjects.described(found)
    assert kinds(found) == [("warning", "unread column", "t.pq")]
    assert "subject is not read, because data.subject is none" in found.findings[0].detail


@pytest.mark.parametrize("column", ["PatientID", "Subject", "patient", "subject_nr"])
def test_a_column_that_may_name_the_subject_is_not_ignored_in_silence(column: str) -> None:
    found = assign(dataset(many("{}_{}.png"), "t.pq", **{column: ["p"] * 30}))
    assert kinds(found) == [("warning", "unread column", "t.pq")]
    assert column in found.findings[0].detail
    stated = assign(dataset(many("{}_{}.png"), "t.pq", subject=["1"] * 30, **{column: ["p"] * 30}))
    assert kinds(stated) == []


@pytest.mark.parametrize(
    ("names", "why", "first"),
    [
        (many("study_{}_{}.png"), "30 of 30 names have more than two parts", "study from study_1_1.png"),
        (many("study{}_{}_1.png"), "30 of 30 names have more than two parts", "study1 from study1_1_1.png"),
        (many("p{}-{}_1.png"), "30 of 30 names have more than two parts", "p1-1 from p1-1_1.png"),
        ([*many("p{}_{}.png"), "p1_2_3.png"], "1 of 31 names", "p1 from p1_2_3.png"),
        (["benign_1.png", "benign_2.png", "malignant_1.png"], "benign, malignant, which could be classes", "benign"),
        ([f"{kind}_{n}.png" for kind in "abcde" for n in range(9)], "could be classes", "c from c_0.png"),
        (many("IMG_{}{}.png"), "all 30 frames are of one subject", "IMG from IMG_11.png"),
        (many("{}{}_x.png"), "there are 30 subjects for 30 frames", "11 from 11_x.png, 12 from 12_x.png"),
        ([*many("{}{}_x.png"), *many("1{}_y{}.png", 1)], "there are 30 subjects for 35 frames", "11 from 11_x.png"),
    ],
)
def test_a_doubtful_reading_is_a_warning_with_names_and_the_remedy(names: list[str], why: str, first: str) -> None:
    found = assign(dataset(names))
    doubts = [finding for finding in found.findings if finding.kind == "doubtful subjects"]
    assert any(why in doubt.detail and first in doubt.detail for doubt in doubts), doubts
    assert all("data.subject" in doubt.detail and doubt.severity == "warning" for doubt in doubts)
    assert all(doubt.detail.count(" from ") <= 3 for doubt in doubts)


@pytest.mark.parametrize(
    "names",
    [
        many("{}_{}.tif", people=47, frames=120),  # Kaggle's
        many("{}_{}.png", people=24, frames=16),  # the phantom's
        many("p{}_{}.png", people=2),
        many("{}_{}.png", people=3, frames=2),
        [f"{name}_{number}.png" for name in ("ann", "bob", "cem", "dan", "eve", "fay") for number in range(3)],
    ],
)
def test_a_plain_reading_is_not_doubted(names: list[str]) -> None:
    assert kinds(assign(dataset(names))) == []


def test_a_pattern_of_ones_own_is_not_doubted() -> None:
    assert kinds(assign(dataset(many("study_{}_{}.png")), "study_(?P<subject>[0-9]+)_[0-9]+")) == []
    assert kinds(assign(dataset(many("IMG_{}_{}.png")), "(?P<subject>IMG)_.+")) == []


@pytest.mark.parametrize("names", [["P01_1.png", "p01_2.png"], ["01_1.png", "1_2.png"], ["a007_1.png", "A7_1.png"]])
def test_subjects_that_differ_only_in_case_or_leading_zeros_are_a_warning(names: list[str]) -> None:
    others = ["10_1.png", "100_1.png", "10_2.png", "100_2.png", "x_1.png", "x_2.png"]
    found = assign(dataset([*names, *others]))
    assert ("warning", "similar subjects", names[0]) in kinds(found)
    (finding,) = [finding for finding in found.findings if finding.kind == "similar subjects"]
    assert all(name.partition("_")[0] in finding.detail for name in names)
    assert "100" not in finding.detail


def test_a_subject_at_several_sites_is_a_warning() -> None:
    found = assign(dataset(["a.png", "b.png", "c.png"], "t.pq", subject=["1", "1", "2"], site=["ulm", "bonn", "ulm"]))
    assert kinds(found) == [("warning", "subject at several sites", "a.png")]
    assert "subject 1 was scanned at several sites, ulm, bonn" in found.findings[0].detail
