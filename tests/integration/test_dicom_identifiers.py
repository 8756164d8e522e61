"""A DICOM dataset full of a person's name, in the split stage: nothing that the stage writes or says has the name."""

import io
import logging
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import DicomDictionary
from pydicom.sequence import Sequence

from dataset_zips import HEIGHT, WIDTH, frame, image, mask, write_zip
from dicom_files import ROOT, regions, segmented_cine, ultrasound
from nerveseg import params, paths
from nerveseg.data.dicom.files import IDENTIFIERS
from nerveseg.data.frame_store import FrameStore
from nerveseg.errors import NervesegError
from nerveseg.files import read_json
from nerveseg.settings import settings
from nerveseg.stages import split

REPOSITORY = Path(__file__).parents[2]
NAME, BORN = "Zyxdoe", "19371113"
PEOPLE = 8
TEXTS = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}
DATES = {"DA", "DT"}
FIRST = 0x00080001  # what comes before is not of the dataset
LABELS = {"SegmentLabel", "SpecificCharacterSet", "PatientID"}  # shown, no text, and another for each patient


def planted(content: bytes, everywhere: bool = False) -> bytes:
    """A file with the name in some text elements; or everywhere: in all of the dictionary, in private ones and in a
    sequence, and the date of birth in every date."""
    data = dcmread(io.BytesIO(content))
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if tag < FIRST or keyword in LABELS or (keyword in data and data[keyword].VM > 1):
            continue
        if not everywhere and keyword not in IDENTIFIERS:
            continue
        if vr in TEXTS:
            data.add_new(tag, vr, f"{NAME}^Jane")
        elif vr in DATES:
            data.add_new(tag, vr, BORN)
    data.PatientID = f"{NAME}^{data.PatientID}"
    data.private_block(0x0009, NAME.upper(), create=True).add_new(1, "LO", NAME)
    item = Dataset()
    item.PatientName, item.PatientID = NAME, NAME
    data.ReferencedStudySequence = Sequence([item])
    buffer = io.BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


@cache
def members() -> dict[str, bytes]:
    """Cines with a DICOM SEG each, single frames with PNG masks, and what findings are about; the name in all names."""
    found = {}
    for number in range(1, PEOPLE + 1):
        cine = np.stack([frame(10 * number), frame(10 * number + 1)])
        source = ultrasound(
            cine, number, f"P{number}", SequenceOfUltrasoundRegions=regions({}), BurnedInAnnotation="YES"
        )
        masks = np.stack([mask(30), mask(0)])[..., np.newaxis]
        found[f"{NAME}/{NAME} {number}"] = planted(source, everywhere=number == 1)
        found[f"{NAME}/seg {number}"] = planted(segmented_cine(source, masks, number=100 + number), number == 1)
        still = ultrasound(np.stack([frame(number)] * 2 + [frame(50)], axis=2), 50 + number, f"P{number}")
        found[f"{NAME}/{NAME}-{number}.dcm"] = planted(still, everywhere=number == 2)
        found[f"{NAME}/{NAME}-{number}_mask.png"] = image(mask(40) * 255, "png")
    found[f"{NAME}/{NAME}.txt"] = NAME.encode()
    found[f"{NAME}/{NAME}-unlabelled.dcm"] = planted(ultrasound(frame(99), 99))
    found[f"{NAME}/{NAME}"] = b"no DICOM"
    return found


def broken() -> dict[str, bytes]:
    """What makes errors of many kinds."""
    cine = ultrasound(np.stack([frame(1), frame(2)]), 201)
    source = planted(cine)
    deep = planted(
        ultrasound(frame(3), 202, BitsAllocated=16, BitsStored=12, HighBit=11, PixelData=bytes(2 * frame(3).size))
    )
    garbled = planted(ultrasound(frame(4), 203)).replace(b"MONOCHROME2", b"ZYXDOE_JANE")
    return {
        f"{NAME}.dcm": source[:-1000],
        f"{NAME}_1_mask.png": image(mask(3, 40, 51) * 255, "png"),
        f"{NAME}_2_mask.png": NAME.encode(),
        f"{NAME}_3_mask.png": image(mask(), "png"),
        f"{NAME} twice.dcm": source,
        f"{NAME} deep.dcm": deep,
        f"{NAME} garbled.dcm": garbled,
        f"{NAME} seg": planted(segmented_cine(cine, np.ones((2, HEIGHT, WIDTH, 1), np.uint8))),
        f"{NAME} short.dcm": source[:500],
        f"{NAME} values.dcm": planted(ultrasound(frame(5), 205)).replace(b"Columns", b"Columns"),
        f"{NAME} values.nii": NAME.encode() * 100,
        f"{NAME} odd.dcm": planted(ultrasound(frame(6), 206)).replace(
            ROOT.encode() + b"206", NAME.encode().ljust(len(ROOT) + 3)
        ),
        f"{NAME} odd_mask.jpg": image(frame(7), "jpg"),
    }


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NERVESEG_IDENTITY_KEY", "a key of the tests")
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def run(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> Callable[[], str]:
    """Runs the stage on the zip; returns all that it wrote and said, after a look for the name in it."""

    def once() -> str:
        caplog.set_level(logging.DEBUG)
        caplog.clear()
        recwarn.clear()  # pydicom's of what was written
        content = params.read_yaml(REPOSITORY / paths.PARAMS)
        content["data"]["frames"] = "all"
        said = []
        try:
            split.run(params.parse(content, "params"))
        except NervesegError as error:
            said.append(str(error))
        captured = capfd.readouterr()
        said += [captured.out, captured.err, caplog.text, *(str(each.message) for each in recwarn)]
        for file in (file for file in Path().rglob("*") if file.is_file() and file != paths.DATASET_ZIP):
            said += [file.name, file.read_bytes().decode("latin-1")]
            if file.suffix == ".parquet":
                said.append(pd.read_parquet(file).to_csv())
        everything = "\n".join(said)
        for secret in (NAME, BORN, ROOT):
            assert secret.casefold() not in everything.casefold()
        return everything

    return once


def test_a_sound_dataset(run: Callable[[], str]) -> None:
    write_zip(paths.DATASET_ZIP, members())
    said = run()
    index = FrameStore.open(paths.PACKED).index
    assert len(index) == 3 * PEOPLE
    assert index["subject"].nunique() == PEOPLE
    assert sorted(index["mask_area"].unique()) == [0, 30, 40]
    assert index["site"].str.fullmatch("site-[0-9a-f]{12}").all()
    assert index["row_mm"].dropna().round(6).unique().tolist() == [0.2]
    assert index["row_mm"].isna().sum() == PEOPLE
    report = read_json(paths.PACKED / "findings.json")
    assert {finding["kind"] for finding in report["findings"]} == {
        *("burned-in annotation", "identifiers in tags", "colour"),
        *("ignored file", "omitted frames", "unlabelled frames"),
    }
    assert "PatientID, replaced by a keyed hash" in report["subjects_read"]
    assert all(tag in said for tag in IDENTIFIERS), "elements are named, but not what they say"


def test_a_dataset_with_errors(run: Callable[[], str]) -> None:
    write_zip(paths.DATASET_ZIP, broken())
    run()
    found = {finding["kind"] for finding in read_json(paths.FINDINGS_JSON)["findings"]}
    assert {"bit depth", "missing frame", "sample format", "unreadable"} <= found


def test_a_damaged_member(run: Callable[[], str]) -> None:
    write_zip(paths.DATASET_ZIP, members())
    content = bytearray(paths.DATASET_ZIP.read_bytes())
    with zipfile.ZipFile(paths.DATASET_ZIP) as archive:
        places = [(info.header_offset, info.compress_size, info.filename) for info in archive.infolist()]
    for offset, size, name in places:
        if name.endswith(("1", "2.dcm", "3_mask.png")):
            at = offset + 30 + len(name) + size - 20
            content[at : at + 8] = bytes(8)
    paths.DATASET_ZIP.write_bytes(content)
    run()
    assert {finding["kind"] for finding in read_json(paths.FINDINGS_JSON)["findings"]} >= {"unreadable"}


@pytest.mark.parametrize("name", [f"../{NAME}.dcm", f"{NAME}\t.dcm", f"{NAME}{'x' * 2000}.dcm"])
def test_a_rejected_zip(run: Callable[[], str], name: str) -> None:
    write_zip(paths.DATASET_ZIP, {"1": ultrasound(frame(1)), name: ultrasound(frame(2), 2)})
    assert "is rejected" in run()


@pytest.mark.parametrize(
    "others",
    [
        {},
        {f"{NAME}.png": image(frame(1), "png"), f"{NAME}_mask.png": image(mask(), "png")},
        {f"{NAME}.csv": f"image,rle_mask\n{NAME},1 2\n".encode()},
    ],
)
def test_a_dataset_that_fits_no_layout_or_several(run: Callable[[], str], others: dict[str, bytes]) -> None:
    write_zip(paths.DATASET_ZIP, {f"{NAME}.dcm": planted(ultrasound(frame(1)))} | others)
    assert ("fits several layouts" in run()) == bool(others)
