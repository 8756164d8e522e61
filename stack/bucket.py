"""The stack's bucket: `python -m stack.bucket init | backup FOLDER | restore FOLDER`.

$S3_BUCKET is its name; endpoint and keys are in AWS's variables.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import boto3
import typer
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from nerveseg.console import console, progress, readable_errors
from nerveseg.errors import NervesegError

THREADS = 8
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Folder = Annotated[Path, typer.Argument(help="Folder of the backup.")]


@app.command()
def init() -> None:
    """Create the bucket if it does not exist, and turn versioning on."""
    with readable_errors():
        client, bucket = _bucket()
        try:
            if bucket not in (one["Name"] for one in client.list_buckets()["Buckets"]):
                client.create_bucket(Bucket=bucket, **_region(client))
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        except (ClientError, BotoCoreError) as error:
            raise NervesegError(f"Bucket {bucket} at {client.meta.endpoint_url}: {error}") from None
        console.print(f"bucket {bucket} is ready, with versioning")


@app.command()
def backup(folder: Folder) -> None:
    """Copy the current version of every object into a folder, which appears once complete."""
    with readable_errors():
        client, bucket = _bucket()
        if folder.exists():
            raise NervesegError(f"{folder} exists: use a new folder for each backup.")
        beside = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]

        def copy(key: str) -> None:
            path = beside / key
            if not path.resolve().is_relative_to(beside.resolve()):
                raise NervesegError(f"{key} cannot be used as a file name.")
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, key, str(path))

        _each(copy, keys, f"{bucket} to {folder}")
        beside.rename(folder)


@app.command()
def restore(folder: Folder) -> None:
    """Put every file of a backup back into the bucket; other objects are kept."""
    with readable_errors():
        client, bucket = _bucket()
        if not folder.is_dir():
            raise NervesegError(f"{folder} does not exist: there is no complete backup.")
        keys = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        _each(lambda key: client.upload_file(str(folder / key), bucket, key), keys, f"{folder} to {bucket}")


def _bucket() -> tuple[Any, str]:
    return boto3.client("s3"), os.environ["S3_BUCKET"]


def _region(client: Any) -> dict[str, Any]:
    """AWS needs the region to be named, except for us-east-1."""
    region = client.meta.region_name
    return {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}


def _each(act: Callable[[str], None], keys: Iterable[str], title: str) -> None:
    keys = list(keys)
    with progress("objects") as bar, ThreadPoolExecutor(THREADS) as pool:
        task = bar.add_task(title, total=len(keys))
        try:
            for _ in pool.map(act, keys):
                bar.advance(task)
        except (ClientError, BotoCoreError, Boto3Error, OSError) as error:
            raise NervesegError(f"{title}: {error}") from None


if __name__ == "__main__":
    app()
