"""Outputs appear complete or not at all."""

import errno
import math
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from limits import largest_file
from nerveseg.errors import NervesegError
from nerveseg.files import read_json, replacing, replacing_folder, sha256, write_json


class Interrupted(BaseException):
    """Like KeyboardInterrupt and SystemExit, not an Exception."""


def fail_while_writing(place: AbstractContextManager[Path], name: str, kind: type[BaseException]) -> None:
    with place as beside:
        (beside / name).write_text("half")
        raise kind


def test_a_new_file_appears_in_a_new_folder_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with replacing(path) as beside:
        beside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kind", [ValueError, Interrupted])
@pytest.mark.parametrize("old", ["old", None])
def test_a_file_is_unchanged_when_the_block_fails(kind: type[BaseException], old: str | None, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    if old:
        path.write_text(old)
    with pytest.raises(kind):
        fail_while_writing(replacing(path), "", kind)
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == ([(path, old)] if old else [])


def test_a_folder_replaces_the_former_one_with_its_content(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    for name in ("first", "second"):
        with replacing_folder(path) as beside:
            assert list(beside.iterdir()) == []
            (beside / "nested").mkdir()
            (beside / "nested" / name).write_text(name)
        assert [file.name for file in path.rglob("*") if file.is_file()] == [name]
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kind", [ValueError, Interrupted])
@pytest.mark.parametrize("old", ["old", None])
def test_a_folder_is_unchanged_when_the_block_fails(kind: type[BaseException], old: str | None, tmp_path: Path) -> None:
    path = tmp_path / "folder"
    if old:
        path.mkdir()
        (path / "file").write_text(old)
    with pytest.raises(kind):
        fail_while_writing(replacing_folder(path), "file", kind)
    files = [(file, file.read_text()) for file in tmp_path.rglob("*") if file.is_file()]
    assert files == ([(path / "file", old)] if old else [])
    assert list(tmp_path.iterdir()) == ([path] if old else [])


def test_a_full_disk_is_named_and_the_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with largest_file(1000), pytest.raises(NervesegError, match=r"file\.txt cannot be written .*: make room"):  # noqa: SIM117
        with replacing(path) as beside:
            beside.write_bytes(bytes(2000))
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(path, "old")]


def test_a_full_disk_is_named_and_the_folder_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "file").write_text("old")
    with largest_file(1000), pytest.raises(NervesegError, match=r"folder cannot be written .*: make room"):  # noqa: SIM117
        with replacing_folder(path) as beside:
            (beside / "file").write_bytes(bytes(2000))
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path / "file"]
    assert (path / "file").read_text() == "old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_disk_that_refuses_a_file_is_no_traceback(number: int, tmp_path: Path) -> None:
    with pytest.raises(NervesegError, match=r"file cannot be .*run again; earlier files are unchanged"):  # noqa: SIM117
        with replacing(tmp_path / "file"):
            raise OSError(number, "a library's own text", str(tmp_path / ".file"))


def test_other_failures_in_the_block_keep_their_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        (tmp_path / "missing").read_bytes()


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = {"text": "µ", "number": 0.1, "list": [None, True], "nested": {"empty": {}}}
    write_json(tmp_path / "record.json", record)
    assert read_json(tmp_path / "record.json") == record


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_values_that_json_lacks_are_rejected_and_the_file_is_kept(number: float, tmp_path: Path) -> None:
    write_json(tmp_path / "record.json", {"dice": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "record.json", {"dice": number})
    assert read_json(tmp_path / "record.json") == {"dice": 0.5}


def test_a_missing_json_file_says_how_to_create_it(tmp_path: Path) -> None:
    with pytest.raises(NervesegError, match=r"record\.json is missing: `dvc repro`"):
        read_json(tmp_path / "record.json")


@pytest.mark.parametrize("content", [b"", b'{"dice": 0.5', b"\xff\xfe\x00"])
def test_a_damaged_json_file_says_how_to_restore_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(NervesegError, match=r"record\.json is not JSON .*`dvc checkout"):
        read_json(tmp_path / "record.json")


def test_sha256_matches_the_standard(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.1."""
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
