"""A folder and an S3 prefix behave alike."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import Bucket
from nerveseg.errors import ChangedError, NervesegError, TransientError
from nerveseg.storage import Storage, open_storage
from workspace import free_port


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "folder":
        yield open_storage(str(tmp_path / "storage"))
    else:
        s3: Bucket = request.getfixturevalue("s3")
        s3.put("elsewhere", b"")
        yield open_storage(s3.uri("some/prefix"))


def test_what_is_written_is_read_and_listed(storage: Storage, tmp_path: Path) -> None:
    storage.write("b/2.txt", b"two")
    storage.write("a.txt", b"one")
    (tmp_path / "file").write_bytes(b"three")
    storage.upload("b/3.txt", tmp_path / "file")
    storage.write(".hidden", b"")
    assert [entry.name for entry in storage.entries()] == ["a.txt", "b/2.txt", "b/3.txt"]
    assert [entry.name for entry in storage.entries("b/")] == ["b/2.txt", "b/3.txt"]
    assert storage.read("b/3.txt")[0] == b"three"
    storage.download("b/2.txt", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"two"


def test_an_empty_storage_lists_nothing(storage: Storage) -> None:
    assert storage.entries() == []


def test_a_stamp_changes_with_the_content(storage: Storage) -> None:
    storage.write("a", b"one")
    (first,) = storage.entries()
    assert storage.read("a")[1] == first.stamp
    storage.write("a", b"other")
    (second,) = storage.entries()
    assert first.stamp != second.stamp


def test_what_is_missing_is_not_found(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read("a")
    with pytest.raises(FileNotFoundError):
        storage.download("a", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_file_is_replaced_only_by_who_knows_it(storage: Storage) -> None:
    storage.replace("current", b"1", None)
    with pytest.raises(ChangedError):
        storage.replace("current", b"2", None)
    _, stamp = storage.read("current")
    storage.replace("current", b"second", stamp)
    with pytest.raises(ChangedError):
        storage.replace("current", b"third", stamp)
    assert storage.read("current")[0] == b"second"


@pytest.mark.parametrize("name", ["../file", "a/../../file", "..", "/file"])
def test_a_name_that_leads_out_is_refused(storage: Storage, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"outside")
    storage.write("a/inside", b"inside")
    for call in (
        lambda: storage.write(name, b"new"),
        lambda: storage.replace(name, b"new", None),
        lambda: storage.upload(name, tmp_path / "file"),
        lambda: storage.read(name),
        lambda: storage.download(name, tmp_path / "back"),
        lambda: storage.entries(name),
    ):
        with pytest.raises(NervesegError, match="leads out of it"):
            call()
    assert (tmp_path / "file").read_bytes() == b"outside"
    assert [entry.name for entry in storage.entries()] == ["a/inside"]


def test_threads_that_write_the_same_file_leave_one_of_their_contents(storage: Storage) -> None:
    contents = [bytes([number]) * 200_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(storage.write, ["same"] * 8, contents)) == [None] * 8
            assert storage.read("same")[0] in contents
    assert [entry.name for entry in storage.entries()] == ["same"]


def test_a_server_that_is_missing_may_come_back(s3: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("nerveseg.s3.ATTEMPTS", 1)
    storage = open_storage(s3.uri("x"))
    (tmp_path / "file").write_bytes(b"")
    for call in (
        lambda: storage.read("a"),
        lambda: storage.write("a", b""),
        storage.entries,
        lambda: storage.upload("a", tmp_path / "file"),
    ):
        with pytest.raises(TransientError, match="does not answer"):
            call()


def test_a_bucket_that_is_missing_is_the_users_to_mend(s3: Bucket, tmp_path: Path) -> None:
    storage = open_storage("s3://no-such-bucket/x")
    (tmp_path / "file").write_bytes(b"")
    for call in (storage.entries, lambda: storage.write("a", b""), lambda: storage.upload("a", tmp_path / "file")):
        with pytest.raises(NervesegError, match="NoSuchBucket") as caught:
            call()
        assert not isinstance(caught.value, TransientError)


@pytest.mark.parametrize("uri", ["https://host/x", "s3://"])
def test_other_addresses_are_refused(uri: str) -> None:
    with pytest.raises(NervesegError, match="s3://bucket/prefix"):
        open_storage(uri)
