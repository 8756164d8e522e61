"""Compares our resumable download with boto3's `download_file`, from the same local S3 server; prints ratios of rates.

Usage: python benchmarks/download.py [MEGABYTES]

The fair comparison is boto3 with one stream, like ours. boto3's default, parallel ranges of 8 MB, is shown too but
means little here: moto handles the whole object for every range (an 8 MB range of a 200 MB object took 0.17 s, an
object of 8 MB 0.02 s). With a real S3 service, parallel ranges can be faster than one stream; this does not
measure that. Ours also computes the SHA-256 of the data, which boto3 does not.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError

from nerveseg.data.sources import open_source
from nerveseg.data.transfer import download

PORT = 5617
ROUNDS = 5
os.environ |= {
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def main(megabytes: int) -> None:
    server = subprocess.Popen(
        [Path(sys.executable).with_name("moto_server"), "-p", str(PORT)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(megabytes, Path(folder))
    finally:
        server.terminate()
        server.wait()


def measure(megabytes: int, folder: Path) -> None:
    client = boto3.client("s3")
    wait_for(client.list_buckets)
    client.create_bucket(Bucket="benchmark")
    client.put_object(Bucket="benchmark", Key="nerves.zip", Body=os.urandom(megabytes * 10**6))
    source = open_source("s3://benchmark/nerves.zip")
    ways: dict[str, Callable[[], object]] = {
        "nerveseg": lambda: download(source, folder / "ours.zip"),
        "boto3, one stream": lambda: client.download_file(
            "benchmark", "nerves.zip", folder / "theirs.zip", Config=TransferConfig(multipart_threshold=2**40)
        ),
        "boto3, parallel ranges": lambda: client.download_file("benchmark", "nerves.zip", folder / "theirs.zip"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):  # alternating, so that a busy machine slows both
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    rates = {name: megabytes / median(times) for name, times in seconds.items()}
    ours = rates.pop("nerveseg")
    print(f"{megabytes} MB, median of {ROUNDS}: nerveseg {ours:.0f} MB/s")
    for name, rate in rates.items():
        print(f"{name}: {rate:.0f} MB/s, ratio nerveseg/boto3 {ours / rate:.2f}")


def wait_for(ready: Callable[[], object]) -> None:
    for _ in range(120):
        try:
            ready()
            return
        except BotoCoreError:
            time.sleep(0.25)
    raise SystemExit("the S3 server did not start")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
