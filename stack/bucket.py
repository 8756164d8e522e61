"""The stack's bucket: `python -m stack.bucket init | backup FOLDER | restore FOLDER`.

$S3_BUCKET names it; AWS's own variables (AWS_ENDPOINT_URL and so on) give the endpoint and the credentials.
"""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from nerveseg.console import console, progress, readable_errors
from nerveseg.errors import NervesegError
from nerveseg.s3 import Bucket

THREADS = 8
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Folder = Annotated[Path, typer.Argument(help="The folder of the backup.")]


@app.command()
def init() -> None:
    """Create the bucket if there is none, and turn versioning on."""
    with readable_errors():
        bucket = _bucket()
        bucket.create()
        console.print(f"bucket {bucket.name} is ready, with versioning")


@app.command()
def backup(folder: Folder) -> None:
    """Copy the current version of every object into a folder, which appears when complete."""
    with readable_errors():
        bucket = _bucket()
        if folder.exists():
            raise NervesegError(f"{folder} exists: give each backup its own folder.")
        beside = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)

        def copy(key: str) -> None:
            path = beside / key
            if not path.resolve().is_relative_to(beside.resolve()):
                raise NervesegError(f"{key} cannot be a file's name.")
            bucket.download(key, path)

        _each(copy, [key for key, _ in bucket.etags()], f"{bucket.name} to {folder}")
        beside.rename(folder)


@app.command()
def restore(folder: Folder) -> None:
    """Put every file of a backup back into the bucket; other objects stay."""
    with readable_errors():
        bucket = _bucket()
        if not folder.is_dir():
            raise NervesegError(f"{folder} is missing, so it is not a complete backup.")
        keys = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        _each(lambda key: bucket.upload(key, folder / key), keys, f"{folder} to {bucket.name}")


def _bucket() -> Bucket:
    return Bucket(os.environ["S3_BUCKET"], setting="S3_BUCKET")


def _each(act: Callable[[str], None], keys: list[str], title: str) -> None:
    with progress("objects") as bar, ThreadPoolExecutor(THREADS) as pool:
        task = bar.add_task(title, total=len(keys))
        try:
            for _ in pool.map(act, keys):
                bar.advance(task)
        except OSError as error:
            raise NervesegError(f"{title}: {error}") from None


if __name__ == "__main__":
    app()
