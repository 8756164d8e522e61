"""The digest of the package's source, and the code recorded for a run."""

import shutil
import subprocess
from pathlib import Path

import pytest

import nerveseg
from nerveseg import package, tracking


def test_the_digest_covers_the_python_files() -> None:
    files = {"a.py": b"1", "part/b.py": b"2"}
    digest = package.source_digest({**files, "page.css": b"3"})
    assert digest == package.source_digest(dict(reversed(files.items())))
    assert digest != package.source_digest({**files, "a.py": b"2"})
    assert digest != package.source_digest({"a.py": b"1", "part/c.py": b"2"})


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a package that is committed in the current folder and running."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "src" / "nerveseg"
    for name in ("src/nerveseg/__init__.py", "src/nerveseg/part/module.py", "params.yaml", "flow.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "state")
    monkeypatch.setattr(nerveseg, "__file__", str(source / "__init__.py"))
    return source


def git(*arguments: str) -> None:
    subprocess.run(("git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments), check=True)


def test_the_source_at_a_commit_matches_the_package(source: Path) -> None:
    assert package.committed("HEAD") == package.running()
    assert package.committed("0" * 40) is None


def test_a_part_of_the_package_has_a_digest_of_its_own(source: Path) -> None:
    parts = ("src/nerveseg/part", "src/nerveseg/__init__.py")
    assert package.running(parts) == package.running()
    before = package.running(parts[:1])
    assert before != package.running()
    (source / "__init__.py").write_text("2\n")
    assert package.running(parts[:1]) == before
    (source / "part" / "module.py").write_text("2\n")
    assert package.running(parts[:1]) != before


def test_code_that_differs_from_the_commit_counts_as_changed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed() -> bool:
        return tracking.git_tags()["git_changed"] == "true"

    scratch = source / "part" / "scratch.py"
    assert not changed()
    Path("params.yaml").write_text("2\n")
    Path("notes.txt").write_text("no code\n")
    assert not changed()
    scratch.write_text("")
    assert changed(), "a file of the package is missing from the commit"
    scratch.unlink()
    Path("flow.py").write_text("2\n")
    assert changed()
    git("commit", "--quiet", "--all", "--message", "next")
    assert not changed()

    installed = tmp_path / "site-packages"
    shutil.copytree(source, installed)
    monkeypatch.setattr(nerveseg, "__file__", str(installed / "__init__.py"))
    assert not changed(), "its location does not matter"
    (installed / "part" / "module.py").write_text("2\n")
    assert changed(), "the running package is not the one checked out"


def test_a_clone_has_its_own_commit(source: Path, tmp_path: Path) -> None:
    """The folds of an ensemble run in one, and what is committed meanwhile is not their code."""
    git("clone", "--quiet", ".", str(tmp_path / "clone"))
    former = tracking.git_tags()
    Path("flow.py").write_text("2\n")
    git("commit", "--quiet", "--all", "--message", "next")
    assert tracking.git_tags(tmp_path / "clone") == former != tracking.git_tags()
