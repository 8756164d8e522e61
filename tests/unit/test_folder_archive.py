"""A folder that is read in place like a zip."""

import os
import unicodedata
from pathlib import Path

import pytest

from nerveseg.data.archive import MAX_MEMBER_BYTES, Folder
from nerveseg.errors import NervesegError


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(NervesegError) as error:
        Folder(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_reads_files_below_it_but_for_hidden_ones(tmp_path: Path) -> None:
    for name in ("a/b/2.png", "1.png", ".DS_Store", ".git/3.png", "__MACOSX/4.png"):
        write(tmp_path / name, name.encode())
    with Folder(tmp_path) as folder:
        assert folder.names == ["1.png", "a/b/2.png"]
        assert folder.read("a/b/2.png") == b"a/b/2.png"
        with pytest.raises(ValueError, match="the limit is 8 bytes"):
            folder.read("a/b/2.png", limit=8)
        (tmp_path / "1.png").unlink()
        with pytest.raises(ValueError, match="No such file"):
            folder.read("1.png")


def test_a_stamp_changes_with_the_content(tmp_path: Path) -> None:
    file = write(tmp_path / "1.png")
    folder = Folder(tmp_path)
    stamp = folder.stamp("1.png")
    assert Folder(tmp_path).stamp("1.png") == stamp
    file.write_bytes(b"xy")
    assert folder.stamp("1.png") != stamp


def test_names_are_in_one_form_of_unicode(tmp_path: Path) -> None:
    write(tmp_path / unicodedata.normalize("NFD", "ä.png"))
    assert Folder(tmp_path).names == ["ä.png"]
    write(tmp_path / "ä.png")
    assert "'ä.png' is there twice" in refusal(tmp_path)


def test_a_link_may_lead_to_a_file_of_the_folder_and_nowhere_else(tmp_path: Path) -> None:
    outside, folder = write(tmp_path / "secret.png"), tmp_path / "folder"
    inside = write(folder / "a/1.png", b"inside")
    link = folder / "link.png"
    link.symlink_to(inside)
    assert Folder(folder).read("link.png") == b"inside"
    for target, reason in (
        (outside, "leads out of the folder"),
        (Path("../secret.png"), "leads out of the folder"),
        (tmp_path, "leads out of the folder"),
        (folder / "a", "is a link to a folder"),
        (folder / "nothing", "is neither a file nor a folder"),
    ):
        link.unlink()
        link.symlink_to(target)
        assert f"'link.png' {'is a link that ' if 'leads' in reason else ''}{reason}" in refusal(folder)


def test_refuses_what_no_zip_may_have(tmp_path: Path) -> None:
    assert "it contains no files" in refusal(tmp_path)
    assert "cannot be read (No such file" in refusal(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    assert "'pipe.png' is neither a file nor a folder" in refusal(tmp_path)
    (tmp_path / "pipe.png").unlink()
    control = write(tmp_path / "a\nb.png")
    assert "control characters" in refusal(tmp_path)
    control.unlink()
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_MEMBER_BYTES + 1)  # it takes no room on the disk
    assert f"'large.png' has {MAX_MEMBER_BYTES + 1} bytes; the limit is {MAX_MEMBER_BYTES}" in refusal(tmp_path)
