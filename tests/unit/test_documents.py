"""JSON files of a dataset are read within a budget of memory."""

import json
import zipfile
from pathlib import Path

import pytest

from dataset_zips import write_zip
from nerveseg.data import documents
from nerveseg.data.archive import Archive
from nerveseg.data.layouts import detect
from nerveseg.data.layouts.dataset import Choices
from nerveseg.errors import NervesegError


def refusal(tmp_path: Path, members: dict[str, bytes]) -> str:
    with Archive(write_zip(tmp_path / "a.zip", members)) as archive, pytest.raises(NervesegError) as error:
        list(documents.read(archive, list(members), lambda found: found))
    return str(error.value)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"  \n"])
def test_a_document_is_read(tmp_path: Path, start: bytes) -> None:
    with Archive(write_zip(tmp_path / "a.zip", {"a.json": start + b'{"a": [1, 2.5, "x"]}'})) as archive:
        assert list(documents.read(archive, ["a.json"], lambda found: found)) == [("a.json", {"a": [1, 2.5, "x"]})]
        assert documents.start(archive, "a.json").startswith("{")


def test_a_document_that_would_take_gigabytes_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as stored:  # 27 MB that would not be accepted if they were compressed
        stored.writestr("a.json", b'{"images": [{"file_name": "x"}], "x": [' + b"[]," * 9_000_000)
    with (
        Archive(path) as archive,
        pytest.raises(NervesegError, match=r"a\.json in .* bytes of memory; the limit is 1073"),
    ):
        detect.find(archive, "auto", Choices())


def test_all_documents_together_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_TOTAL", 600)
    document = json.dumps({"a": [1, 2]}).encode()
    assert refusal(tmp_path, {"a.json": document, "b.json": document}).startswith("b.json in")


def test_a_thousand_documents_are_not_looked_through(tmp_path: Path) -> None:
    """As of datasets with one JSON file for each image."""
    for number, found in ((1000, 1000), (1001, 0)):
        members = {f"{index}.json": b"{}" for index in range(number)}
        with Archive(write_zip(tmp_path / "a.zip", members)) as archive:
            assert len(documents.candidates(archive)) == found
