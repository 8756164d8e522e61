"""A folder or an S3 prefix as data.uri: real folders, an S3 server over HTTP, and DVC."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from dvc.repo import Repo
from typer.testing import CliRunner

from conftest import Bucket
from dataset_zips import kaggle
from nerveseg import params, paths
from nerveseg.cli import app
from nerveseg.data import transfer
from nerveseg.data.folders import is_folder
from nerveseg.data.sources import open_source
from nerveseg.errors import ChangedError, NervesegError
from nerveseg.profiles import override
from nerveseg.stages import download as stage
from nerveseg.workspace import clones
from wire import Answer, Wire, forward_to, serving
from workspace import Workspace

FILES = kaggle(subjects=3) | {"train/notes.txt": b""}
PARAMS = Path(__file__).parents[2] / "params.yaml"
Hook = Callable[[str], object]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which the stage runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.01)
    (tmp_path / "params.yaml").write_text(PARAMS.read_text())
    return tmp_path


def write(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def put(bucket: Bucket, prefix: str, files: Mapping[str, bytes] = FILES) -> dict[str, str]:
    """Stores files below the prefix; returns their version ids."""
    return {name: bucket.put(prefix + name, content) for name, content in files.items()}


def run(uri: str, **data: Any) -> bytes:
    """Runs the stage; returns the zip."""
    override({f"data.{name}": value for name, value in {"uri": uri, **data}.items()}, paths.PARAMS)
    stage.run(params.load())
    return paths.DATASET_ZIP.read_bytes()


def refusal(uri: str, **data: Any) -> str:
    with pytest.raises(NervesegError) as error:
        run(uri, **data)
    assert not paths.DATASET_ZIP.exists()
    return str(error.value)


def record() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(paths.SOURCE_JSON.read_text())
    return content


def left() -> list[str]:
    return sorted(path.name for path in paths.DATASET_ZIP.parent.iterdir())


def members(path: Path = paths.DATASET_ZIP) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# a folder


def test_the_same_files_give_the_same_zip(here: Path) -> None:
    first = run(str(write(here / "a")))  # an existing folder needs no slash
    again = write(here / "b", dict(reversed(FILES.items())))
    (again / "train/1_1.tif").chmod(0o600)
    os.utime(again / "train/1_1.tif", (0, 0))
    (again / "empty").mkdir()
    assert run("b/") == first
    assert members() == FILES
    assert list(members()) == sorted(FILES)
    sizes = {"objects": len(FILES), "objects_size": sum(map(len, FILES.values())), "size": len(first)}
    hashes = {
        "sha256": hashlib.sha256(first).hexdigest(),
        "manifest_sha256": hashlib.sha256(paths.MANIFEST.read_bytes()).hexdigest(),
    }
    found = record()
    assert found.pop("last_modified") > "2020"
    assert found == {"uri": "b/", "etag": None, "version_id": None, **sizes, **hashes}
    assert pd.read_csv(paths.MANIFEST)["name"].tolist() == sorted(FILES)
    assert left() == ["dataset.zip", "manifest.csv", "source.json"]


def test_hidden_files_are_left_out_and_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(here / "a")
    expected = run("a/")
    write(folder, {".DS_Store": b"x", "train/._1_1.tif": b"x", ".git/config": b"x"})
    (folder / "train" / "linked.tif").symlink_to("1_1.tif")
    run("a/")
    assert "3 hidden files or folders" in capsys.readouterr().err
    assert set(members()) == {*FILES, "train/linked.tif"}
    (folder / "train" / "linked.tif").unlink()
    assert run("a/") == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: (a / "empty").mkdir(parents=True), "has no files: check data.uri"),
        (lambda a: write(a, {".hidden": b"x"}), "has no files but 1 hidden ones"),
        (lambda a: write(a).joinpath("1.tif").symlink_to("/etc/hostname"), "a/1.tif is a link that leads out"),
        (lambda a: write(a).joinpath("more").symlink_to("train"), "a/more is a link to a folder"),
        (lambda a: write(a).joinpath("1.tif").symlink_to("2.tif"), "a/1.tif is neither.* or a link to nothing"),
        (lambda a: os.mkfifo(write(a) / "pipe"), "a/pipe is neither a file nor a folder"),
        (lambda a: write(a, {"a\nb.tif": b"x"}), r"'a\\nb.tif' has characters that are not printable"),
        (lambda a: write(a.parent, {"a": b"x"}), "a/ is a file, not a folder"),
        (lambda a: None, r"a/ is missing \(looked in"),
    ],
)
def test_a_folder_that_cannot_be_taken_as_it_is(here: Path, make: Callable[[Path], object], message: str) -> None:
    make(here / "a")
    with pytest.raises(NervesegError, match=message):
        run("a/")
    assert left() == []


def test_the_folder_must_not_hold_the_zip(here: Path) -> None:
    assert "holds data/raw/dataset.zip, which the download writes" in refusal(str(here))


def test_a_checksum_is_that_of_the_zip(here: Path) -> None:
    write(here / "a")
    assert f"The zip of a/ has SHA-256 {hashlib.sha256(run('a/')).hexdigest()}" in refusal_after("a/", sha256="0" * 64)
    digest = hashlib.sha256(run("a/", sha256=None)).hexdigest()
    assert run("a/", sha256=digest)


def test_a_clone_reads_the_folder_of_its_origin(here: Path) -> None:
    first, clone = run(str(write(here / "nerves"))), here / "clone"
    clone.mkdir()
    override({"data.uri": "nerves/"}, paths.PARAMS)
    shutil.copy(paths.PARAMS, clone)
    clones.link_dataset(here, clone)
    with chdir(clone):
        assert run("nerves/") == first


def refusal_after(uri: str, **data: Any) -> str:
    paths.DATASET_ZIP.unlink()
    return refusal(uri, **data)


def test_only_s3_and_paths_have_folders(here: Path) -> None:
    (here / "data").mkdir()
    assert [uri for uri in ("s3://b/p/", "data", "gone/") if not is_folder(uri)] == []
    assert [uri for uri in ("s3://b/p", "https://host/p/", "http://host/p/", "a.zip") if is_folder(uri)] == []


# S3


@pytest.fixture
def s3(bucket: Bucket, aws_environment: None) -> Bucket:
    """The bucket of all tests here."""
    return bucket


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """Where a test has its objects in the bucket."""
    return f"{tmp_path.name}/nerves/"


@pytest.fixture
def proxy(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Wire]]:
    """`proxy(hook)`: a server between the stage and S3, which calls `hook` with each path that is requested before it
    forwards the request; `drop` is a header that it leaves out."""
    forward, running = forward_to(s3.endpoint), []

    def start(hook: Hook = lambda path: None, drop: str = "") -> Wire:
        def answer(path: str, headers: Mapping[str, str]) -> Answer:
            hook(path)
            return forward(path, {name: value for name, value in headers.items() if name != drop})

        running.append(serving(answer))
        wire = running[-1].__enter__()
        monkeypatch.setenv("AWS_ENDPOINT_URL", wire.url)
        return wire

    yield start
    for server in running:
        server.__exit__(None, None, None)


def test_a_prefix_gives_the_zip_that_its_files_would(s3: Bucket, prefix: str, here: Path) -> None:
    versions = put(s3, prefix)
    s3.put(prefix, b"")  # consoles make such objects for folders
    s3.put(f"{prefix}.DS_Store", b"x")
    s3.put(f"{prefix[:-1]}-2/1_1.tif", b"x")
    assert run(s3.uri(prefix)) == run(str(write(here / "a")))
    run(s3.uri(prefix))
    found = pd.read_csv(paths.MANIFEST).set_index("name")
    assert found["version_id"].to_dict() == versions
    assert found["etag"].to_dict() == {name: hashlib.md5(content).hexdigest() for name, content in FILES.items()}
    assert found["size"].to_dict() == {name: len(content) for name, content in FILES.items()}
    assert (record()["uri"], record()["objects"], record()["etag"]) == (s3.uri(prefix), len(FILES), None)
    assert left() == ["dataset.zip", "manifest.csv", "source.json"]


def test_a_prefix_can_be_inspected(s3: Bucket, prefix: str, here: Path) -> None:
    put(s3, prefix)
    result = CliRunner().invoke(app, ["dataset", "inspect", s3.uri(prefix)])
    assert result.exit_code == 0, result.stderr
    assert f"Dataset: {s3.uri(prefix)}, 13 files" in result.stderr
    assert f"uri: {s3.uri(prefix)}" in result.stdout


def test_a_killed_download_fetches_only_what_is_missing(
    s3: Bucket, prefix: str, here: Path, proxy: Callable[..., Wire]
) -> None:
    """A process of its own, because it is killed."""
    put(s3, prefix)
    held, requested = threading.Event(), []

    def hook(path: str) -> None:
        requested.append(path.rpartition("/")[2])
        if "train/3_" in path:
            held.wait(30)

    proxy(hook)
    override({"data.uri": s3.uri(prefix)}, paths.PARAMS)
    first = subprocess.Popen([sys.executable, "-m", "nerveseg.stages.download"], stderr=subprocess.DEVNULL)
    kept = here / "data/raw/dataset.zip.parts"
    end = time.monotonic() + 30
    while not kept.exists() or len([path for path in kept.iterdir() if not path.suffix]) < len(FILES) - 4:
        assert time.monotonic() < end
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    held.set()
    assert "dataset.zip" not in left()

    s3.put(f"{prefix}train/1_1.tif", FILES["train/1_2.tif"])  # replaced meanwhile
    s3.client.delete_object(Bucket=s3.name, Key=f"{prefix}train/1_2.tif")
    requested.clear()
    run(s3.uri(prefix))
    fetched = sorted(name for name in requested if name.endswith((".tif", ".txt")))
    assert fetched == ["1_1.tif", "3_1.tif", "3_1_mask.tif", "3_2.tif", "3_2_mask.tif"]
    expected = FILES | {"train/1_1.tif": FILES["train/1_2.tif"]}
    del expected["train/1_2.tif"]
    assert members() == expected
    assert left() == ["dataset.zip", "manifest.csv", "source.json"]


def test_an_object_that_changes_after_the_listing_is_not_taken(
    s3: Bucket, prefix: str, here: Path, proxy: Callable[..., Wire]
) -> None:
    put(s3, prefix)
    for drop in ("", "If-Match"):  # a server may also ignore the condition
        changes = [f"other {drop}".encode()]

        def hook(path: str, changes: list[bytes] = changes) -> None:
            if path.endswith("2_1.tif") and changes:
                s3.put(f"{prefix}train/2_1.tif", changes.pop())

        proxy(hook, drop)
        with pytest.raises(ChangedError, match=r"train/2_1\.tif was written by another process.*run again"):
            run(s3.uri(prefix))
        assert "dataset.zip" not in left()
    run(s3.uri(prefix))
    assert members() == FILES | {"train/2_1.tif": b"other If-Match"}


def test_an_object_that_is_added_or_removed_meanwhile_is_noticed(
    s3: Bucket, prefix: str, here: Path, proxy: Callable[..., Wire]
) -> None:
    put(s3, prefix)
    added, removed = [b"new"], [f"{prefix}train/1_1.tif"]
    proxy(lambda path: "train" in path and added and s3.put(f"{prefix}new.tif", added.pop()))
    with pytest.raises(ChangedError, match=f"{s3.uri(prefix)} was written by another process"):
        run(s3.uri(prefix))
    proxy(lambda path: "new.tif" in path and removed and s3.client.delete_object(Bucket=s3.name, Key=removed.pop()))
    with pytest.raises(ChangedError, match=f"{s3.uri(prefix)} was written by another process"):
        run(s3.uri(prefix))
    run(s3.uri(prefix))
    assert set(members()) == {*FILES, "new.tif"} - {"train/1_1.tif"}


def test_a_cut_object_is_continued(s3: Bucket, prefix: str, here: Path, proxy: Callable[..., Wire]) -> None:
    content = os.urandom(3 * 2**20)
    put(s3, prefix, {"large.tif": content})
    wire = proxy(lambda path: wire.cuts.append(2**21) if "large" in path and len(wire.log) < 3 else None)
    run(s3.uri(prefix))
    assert members() == {"large.tif": content}
    large = [exchange for exchange in wire.log if "large" in exchange.path]
    assert [exchange.headers.get("Range") for exchange in large] == [None, f"bytes={2**21}-"]
    assert all(exchange.headers["If-Match"] for exchange in large)


def test_what_a_former_download_began_is_never_mixed_in(s3: Bucket, here: Path, proxy: Callable[..., Wire]) -> None:
    """A zip is cut, a folder is downloaded into the same place and fails, then the zip is continued."""
    content = os.urandom(2**20)
    s3.put("nerves.zip", content)
    wire = proxy()
    wire.cuts = [2**19] + [0] * transfer.TRIES
    assert "are kept" in refusal(s3.uri("nerves.zip"))
    write(here / "a")
    assert "expects" in refusal("a/", sha256="0" * 64)
    wire.cuts = []
    assert transfer.download(open_source(s3.uri("nerves.zip")), paths.DATASET_ZIP)["size"] == len(content)
    assert paths.DATASET_ZIP.read_bytes() == content


def test_s3_says_what_is_wrong_with_a_prefix(s3: Bucket, prefix: str, here: Path) -> None:
    assert "has no files: check data.uri" in refusal(s3.uri("nothing/"))
    assert "NoSuchBucket" in refusal("s3://no-such-bucket-here/nothing/")
    s3.put(f"{prefix}1_1.tif", b"x")
    assert "The address of a prefix ends with a slash" in refusal(s3.uri(prefix).rstrip("/"))


# DVC


def changed_deps(workspace: Workspace) -> list[str]:
    """The dependencies that make download stale."""
    with chdir(workspace.root), Repo() as repo:
        found = repo.status(targets=["download"])
    return [dep.rstrip("/") for each in found.get("download", []) for dep in each.get("changed deps", {})]


def test_dvc_notices_what_changes_below_a_prefix_and_in_a_folder(s3: Bucket, prefix: str, tmp_path: Path) -> None:
    """Runs DVC, because it is DVC that decides what is stale; after the first download, in this process."""
    workspace = Workspace(tmp_path / "project")

    def change_on_s3(name: str, content: bytes | None) -> None:
        if content is None:
            s3.client.delete_object(Bucket=s3.name, Key=prefix + name)
        else:
            s3.put(prefix + name, content)

    def change_here(name: str, content: bytes | None) -> None:
        if content is None:
            (workspace.root / "nerves" / name).unlink()
        else:
            write(workspace.root / "nerves", {name: content})

    for uri, change in ((s3.uri(prefix), change_on_s3), ("nerves/", change_here)):
        for name, content in FILES.items():
            change(name, content)
        workspace.set(**{"data.uri": uri})
        if change is change_on_s3:
            workspace.run("dvc", "repro", "download")
            assert members(workspace.root / paths.DATASET_ZIP) == FILES
        else:
            with chdir(workspace.root), Repo() as repo:
                repo.commit("download", force=True)
        assert changed_deps(workspace) == []
        for name, new in (("train/1_1.tif", b"changed"), ("train/9_1.tif", b"added"), ("train/1_2.tif", None)):
            change(name, new)
            assert changed_deps(workspace) == [uri.rstrip("/")]
            change(name, FILES.get(name))
        if change is change_on_s3:
            s3.put(f"{prefix[:-1]}-2/1_1.tif", b"beside the prefix")
            assert changed_deps(workspace) == []
