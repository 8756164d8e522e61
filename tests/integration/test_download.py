"""The download as its users meet it: real servers, real processes, cut connections."""

import datetime
import hashlib
import ipaddress
import json
import os
import re
import shlex
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from conftest import Bucket
from nerveseg.data import published, transfer
from nerveseg.data.sources import open_source
from nerveseg.data.transfer import download
from nerveseg.errors import NervesegError
from preload import VARIABLE
from wire import Answer, Wire, forward_to, serving

MIB = 2**20
CONTENT = os.urandom(5 * MIB + 12_345)
OTHER = os.urandom(5 * MIB + 12_345)  # of equal size: a mix would not show in the length
STAGE = [f"{os.environ[VARIABLE]}/python", "-m", "nerveseg.stages.download"]
PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def serve() -> Iterator[Callable[..., Wire]]:
    """Starts web servers; `serve(answer)` returns a Wire whose `url` is its address."""
    with ExitStack() as running:
        yield lambda *arguments, **options: running.enter_context(serving(*arguments, **options))


@dataclass
class Origin:
    """A plain web server's answers: one file, with what the server can and cannot do."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    ranges: bool = True
    if_range: bool = True
    tells_size: bool = True

    def __call__(self, path: str, headers: Mapping[str, str]) -> Answer:
        same = headers.get("If-Range") == self.etag or not self.if_range
        start = int(headers["Range"][6:-1]) if self.ranges and same and "Range" in headers else 0
        body = self.content[start:]
        reply = {"ETag": self.etag} if self.etag else {}
        if self.tells_size:
            reply["Content-Length"] = str(len(body))
        if start:
            reply["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        return (206 if start else 200), reply, body


@pytest.fixture
def proxy(s3: Bucket, serve: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Stands between the download and the S3 server."""
    wire = serve(forward_to(s3.endpoint))
    monkeypatch.setenv("AWS_ENDPOINT_URL", wire.url)
    return wire


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.01)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "dataset.zip"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir()) if target.parent.exists() else []


def workspace(folder: Path, uri: str, sha256: str | None = None) -> Path:
    """A folder with a params.yaml in which the stage can run."""
    content = YAML(typ="safe").load(PARAMS.read_text())
    content["data"] |= {"uri": uri, "sha256": sha256}
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(content, file)
    return folder


def run_stage(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(STAGE, cwd=folder, capture_output=True, text=True, timeout=60)


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# S3


def test_records_which_object_arrived(s3: Bucket, target: Path) -> None:
    version = s3.put("nerves.zip", CONTENT)
    record = download(open_source(s3.uri("nerves.zip")), target)
    assert target.read_bytes() == CONTENT
    modified = record.pop("last_modified")
    assert datetime.datetime.fromisoformat(modified).tzinfo is not None
    assert record == {
        "uri": s3.uri("nerves.zip"),
        "etag": hashlib.md5(CONTENT).hexdigest(),
        "version_id": version,
        "sha256": digest(CONTENT),
        "size": len(CONTENT),
    }
    assert left(target) == ["dataset.zip"]


def test_a_pinned_version_outlives_its_replacement(s3: Bucket, target: Path) -> None:
    old = s3.put("nerves.zip", CONTENT)
    s3.put("nerves.zip", OTHER)
    record = download(open_source(s3.uri("nerves.zip"), old), target)
    assert (target.read_bytes(), record["version_id"]) == (CONTENT, old)
    download(open_source(s3.uri("nerves.zip")), target)
    assert target.read_bytes() == OTHER


def test_a_public_bucket_needs_no_credentials(s3: Bucket, proxy: Wire, tmp_path: Path, monkeypatch: Any) -> None:
    s3.put("nerves.zip", CONTENT, ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    folder = workspace(tmp_path, s3.uri("nerves.zip"))

    refused = run_stage(folder)
    assert refused.returncode == 1
    assert "NERVESEG_S3_ANONYMOUS=true" in refused.stderr
    assert "Traceback" not in refused.stderr

    monkeypatch.setenv("NERVESEG_S3_ANONYMOUS", "true")
    allowed = run_stage(folder)
    assert allowed.returncode == 0, allowed.stderr
    assert proxy.log
    assert all("Authorization" not in exchange.headers for exchange in proxy.log)
    assert json.loads((tmp_path / "data/raw/source.json").read_text())["sha256"] == digest(CONTENT)


def test_a_cut_connection_is_continued(s3: Bucket, proxy: Wire, target: Path) -> None:
    s3.put("nerves.zip", CONTENT)
    proxy.cuts = [2 * MIB + 77, MIB]
    record = download(open_source(s3.uri("nerves.zip")), target)
    assert record["sha256"] == digest(CONTENT)
    starts = [int((header or "bytes=0-")[6:-1]) for header in proxy.ranges]
    assert len(starts) == 3
    assert 0 == starts[0] < starts[1] < starts[2]
    assert proxy.sent < len(CONTENT) + 2 * MIB  # at most a chunk is lost at each cut
    assert all(exchange.headers.get("If-Match") for exchange in proxy.log[1:])


def test_a_killed_process_is_continued_by_the_next(s3: Bucket, proxy: Wire, tmp_path: Path) -> None:
    s3.put("nerves.zip", CONTENT)
    folder = workspace(tmp_path, s3.uri("nerves.zip"), digest(CONTENT))
    part = folder / "data/raw/dataset.zip.part"
    proxy.stall_at = 3 * MIB + 5
    first = subprocess.Popen(STAGE, cwd=folder, stderr=subprocess.DEVNULL)
    until(lambda: part.exists() and part.stat().st_size >= 2 * MIB)
    with pytest.raises(NervesegError, match="Another download"):
        download(open_source(s3.uri("nerves.zip")), folder / "data/raw/dataset.zip")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert left(folder / "data/raw/dataset.zip") == ["dataset.zip.part", "dataset.zip.part.json"]
    here = part.stat().st_size

    proxy.stall_at = None
    second = run_stage(folder)
    assert second.returncode == 0, second.stderr
    assert "continues at" in second.stderr
    assert proxy.ranges == [None, f"bytes={here}-"]
    assert proxy.log[1].sent == len(CONTENT) - here
    assert (folder / "data/raw/dataset.zip").read_bytes() == CONTENT
    assert left(folder / "data/raw/dataset.zip") == ["dataset.zip", "manifest.csv", "source.json"]


def test_a_complete_partial_file_asks_for_one_byte(s3: Bucket, proxy: Wire, target: Path) -> None:
    s3.put("nerves.zip", CONTENT)
    (target / "in the way").mkdir(parents=True)
    with pytest.raises(NervesegError, match="cannot be written"):
        download(open_source(s3.uri("nerves.zip")), target)
    (target / "in the way").rmdir()
    target.rmdir()
    download(open_source(s3.uri("nerves.zip")), target)
    assert target.read_bytes() == CONTENT
    assert proxy.log[1].sent == 1


def test_an_object_replaced_between_two_tries_is_never_mixed(
    s3: Bucket, proxy: Wire, target: Path, capsys: Any
) -> None:
    s3.put("nerves.zip", CONTENT)
    proxy.cuts = [3 * MIB]
    proxy.at_cut = lambda: s3.put("nerves.zip", OTHER)
    record = download(open_source(s3.uri("nerves.zip")), target)
    assert target.read_bytes() == OTHER
    assert record["etag"] == hashlib.md5(OTHER).hexdigest()
    assert "replaced" in capsys.readouterr().err


def test_a_server_that_ignores_if_match_is_not_trusted(s3: Bucket, serve: Any, target: Path, monkeypatch: Any) -> None:
    forward = forward_to(s3.endpoint)
    careless = serve(lambda path, headers: forward(path, {k: v for k, v in headers.items() if k != "If-Match"}))
    monkeypatch.setenv("AWS_ENDPOINT_URL", careless.url)
    s3.put("nerves.zip", CONTENT)
    careless.cuts = [3 * MIB]
    careless.at_cut = lambda: s3.put("nerves.zip", OTHER)
    download(open_source(s3.uri("nerves.zip")), target)
    assert target.read_bytes() == OTHER
    assert careless.log[1].status == 206  # it did offer to continue


def test_a_partial_file_of_another_object_is_discarded(s3: Bucket, proxy: Wire, target: Path) -> None:
    s3.put("one.zip", CONTENT)
    s3.put("two.zip", CONTENT)
    proxy.cuts = [MIB] + [0] * transfer.TRIES
    with pytest.raises(NervesegError, match=r"1\.0 MB of 5\.3 MB are kept, run again to continue"):
        download(open_source(s3.uri("one.zip")), target)
    record = download(open_source(s3.uri("two.zip")), target)
    assert record["uri"] == s3.uri("two.zip")
    assert proxy.ranges[-1] is None


def test_tries_are_bounded_unless_they_get_further(s3: Bucket, proxy: Wire, target: Path) -> None:
    s3.put("nerves.zip", CONTENT)
    proxy.cuts = [MIB // 2] * (2 * transfer.TRIES)
    download(open_source(s3.uri("nerves.zip")), target)  # every try gets further
    assert len(proxy.log) == 2 * transfer.TRIES + 1

    s3.put("nerves.zip", OTHER)
    proxy.log.clear()
    proxy.cuts = [0] * 100
    with pytest.raises(NervesegError, match="Gave up"):
        download(open_source(s3.uri("nerves.zip")), target)
    assert len(proxy.log) == transfer.TRIES


def test_a_connection_that_always_resets_early_gets_further(s3: Bucket, proxy: Wire, target: Path) -> None:
    content = os.urandom(60_000)
    s3.put("nerves.zip", content)
    proxy.resets, proxy.cuts = True, [5_000] * (transfer.TRIES + 2)
    download(open_source(s3.uri("nerves.zip")), target)
    assert target.read_bytes() == content
    assert proxy.ranges[:3] == [None, "bytes=5000-", "bytes=10000-"]


def test_an_endpoint_that_does_not_tell_the_size(s3: Bucket, serve: Any, target: Path, monkeypatch: Any) -> None:
    s3.put("nerves.zip", CONTENT)
    forward = forward_to(s3.endpoint)

    def answer(path: str, headers: Mapping[str, str]) -> Answer:
        status, found, body = forward(path, headers)
        return status, {name: value for name, value in found.items() if name != "Content-Length"}, body

    monkeypatch.setenv("AWS_ENDPOINT_URL", serve(answer).url)
    with pytest.raises(NervesegError, match=r"does not say how large.*data\.sha256"):
        download(open_source(s3.uri("nerves.zip")), target)
    record = download(open_source(s3.uri("nerves.zip")), target, digest(CONTENT))
    assert record["size"] == len(CONTENT)


def test_wrong_content_never_gets_the_final_name(s3: Bucket, tmp_path: Path) -> None:
    s3.put("nerves.zip", CONTENT)
    outcome = run_stage(workspace(tmp_path, s3.uri("nerves.zip"), digest(OTHER)))
    assert outcome.returncode == 1
    assert digest(OTHER) in outcome.stderr
    assert digest(CONTENT) in outcome.stderr
    assert left(tmp_path / "data/raw/dataset.zip") == []


@pytest.mark.parametrize(
    ("uri", "version", "message"),
    [
        ("s3://no-such-bucket-here/nerves.zip", None, "NoSuchBucket.*Check the bucket"),
        ("s3://{bucket}/missing.zip", None, "NoSuchKey.*Check the key"),
        ("s3://{bucket}/nerves.zip", "8e2b5f6c-0000-0000-0000-000000000000", "no version 8e2b.*data.version_id"),
        ("s3://{bucket}/empty.zip", None, "is empty"),
        ("s3://{bucket}/denied.zip", None, "403.*AWS_PROFILE"),
        ("s3://Not_A_Bucket!/nerves.zip", None, "Check data.uri"),
        (published.ON_ITS_CARD, None, f"private address .* its public copy is {re.escape(published.COPY)}"),
    ],
)
def test_s3_says_what_is_missing(s3: Bucket, target: Path, uri: str, version: str | None, message: str) -> None:
    s3.put("nerves.zip", b"content")
    s3.put("denied.zip", b"content")
    s3.put("empty.zip", b"")
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{s3.name}/denied.zip",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    s3.client.put_bucket_policy(Bucket=s3.name, Policy=policy)
    with pytest.raises(NervesegError, match=message):
        download(open_source(uri.format(bucket=s3.name), version), target)
    assert left(target) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "http://127.0.0.1:9 does not answer.*AWS_ENDPOINT_URL"),
        ("AWS_ENDPOINT_URL", "localhost:9000", "AWS_ENDPOINT_URL"),
        ("AWS_PROFILE", "nobody", "nobody.*AWS_PROFILE"),
    ],
)
def test_a_wrong_s3_environment_is_named(
    s3: Bucket, target: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(NervesegError, match=message):
        download(open_source(s3.uri("nerves.zip")), target)


# http and https


def test_http_continues_where_it_was_cut(serve: Any, target: Path) -> None:
    wire = serve(Origin())
    wire.cuts = [3 * MIB]
    record = download(open_source(f"{wire.url}/nerves.zip"), target)
    assert target.read_bytes() == CONTENT
    assert (record["etag"], record["version_id"], record["size"]) == ("one", None, len(CONTENT))
    assert wire.ranges[0] is None
    assert wire.ranges[1] is not None
    assert wire.log[1].status == 206
    assert wire.sent <= len(CONTENT) + MIB


@pytest.mark.parametrize("limits", [{"ranges": False}, {"etag": None}, {"etag": 'W/"weak"', "if_range": False}])
def test_http_starts_anew_where_it_cannot_continue(serve: Any, target: Path, limits: dict[str, Any]) -> None:
    wire = serve(Origin(**limits))
    wire.cuts = [3 * MIB]
    download(open_source(f"{wire.url}/nerves.zip"), target)
    assert target.read_bytes() == CONTENT
    assert wire.log[-1].sent == len(CONTENT)


@pytest.mark.parametrize("if_range", [True, False], ids=["obeys If-Range", "ignores If-Range"])
def test_http_never_mixes_two_files(serve: Any, target: Path, if_range: bool) -> None:
    origin = Origin(if_range=if_range)
    wire = serve(origin)

    def replace() -> None:
        origin.content, origin.etag = OTHER, '"two"'

    wire.cuts, wire.at_cut = [3 * MIB], replace
    record = download(open_source(f"{wire.url}/nerves.zip"), target)
    assert target.read_bytes() == OTHER
    assert record["etag"] == "two"


def test_without_a_size_only_a_checksum_proves_wholeness(serve: Any, target: Path) -> None:
    wire = serve(Origin(tells_size=False))
    with pytest.raises(NervesegError, match=r"data\.sha256"):
        download(open_source(f"{wire.url}/nerves.zip"), target)
    record = download(open_source(f"{wire.url}/nerves.zip"), target, digest(CONTENT))
    assert record["size"] == len(CONTENT)
    wire.cuts = [MIB]
    with pytest.raises(NervesegError, match="expects"):
        download(open_source(f"{wire.url}/nerves.zip"), target, digest(CONTENT))


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "no such file"), (403, "not allowed"), (410, "no such file"), (503, "answers 503.*Gave up"), (204, "Not a")],
)
def test_http_says_what_is_wrong(serve: Any, target: Path, status: int, message: str) -> None:
    wire = serve(lambda path, headers: (status, {"Content-Length": "0"}, b""))
    with pytest.raises(NervesegError, match=message):
        download(open_source(f"{wire.url}/nerves.zip"), target)


@pytest.mark.parametrize(
    "code", ["ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AuthorizationQueryParametersError"]
)
def test_http_says_that_the_credentials_of_a_signed_address_have_expired(serve: Any, target: Path, code: str) -> None:
    body = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>because</Message></Error>".encode()
    wire = serve(lambda path, headers: (400, {"Content-Length": str(len(body))}, body))
    with pytest.raises(NervesegError, match=rf"answers 400 {code}\. .*signed address may have expired") as error:
        download(open_source(f"{wire.url}/nerves.zip?X-Amz-Signature=secret"), target)
    assert "secret" not in str(error.value)


def test_http_gets_further_where_each_connection_resets_early(serve: Any, target: Path) -> None:
    wire = serve(Origin(content=CONTENT[:60_000]))
    wire.resets, wire.cuts = True, [5_000] * (transfer.TRIES + 2)
    download(open_source(f"{wire.url}/nerves.zip"), target)
    assert target.read_bytes() == CONTENT[:60_000]


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_an_unreachable_host_is_named(target: Path, address: str) -> None:
    with pytest.raises(NervesegError, match=f"{address}/nerves.zip: the server does not answer"):
        download(open_source(f"{address}/nerves.zip"), target)


def test_https_wants_a_certificate_it_can_trust(
    serve: Any, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    wire = serve(Origin(), tls=context)
    with pytest.raises(NervesegError, match=r"self-signed certificate.*REQUESTS_CA_BUNDLE"):
        download(open_source(f"{wire.url}/nerves.zip"), target)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    wire.cuts = [3 * MIB]
    download(open_source(f"{wire.url}/nerves.zip"), target)
    assert target.read_bytes() == CONTENT


def self_signed(folder: Path) -> Path:
    """A .pem file with a fresh key and a certificate for 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return pem


@pytest.mark.parametrize("status", [200, 404])
def test_credentials_come_from_netrc_and_stay_secret(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    origin = Origin(b"content")
    wire = serve(lambda path, headers: origin(path, headers) if status == 200 else (status, {}, b""))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    outcome = run_stage(workspace(tmp_path, f"{wire.url}/nerves.zip"))
    assert outcome.returncode == (0 if status == 200 else 1)
    assert "hunter" not in outcome.stderr + outcome.stdout
    assert wire.log[0].headers["Authorization"].startswith("Basic ")
    for path in tmp_path.rglob("*.json"):
        assert "hunter" not in path.read_text()


@pytest.mark.parametrize("secret", ["http://user:hunter2@", "?X-Amz-Signature=hunter2"])
def test_an_address_with_a_secret_is_not_requested(serve: Any, tmp_path: Path, secret: str) -> None:
    wire = serve(Origin(b"content"))
    address = f"{wire.url}/nerves.zip{secret}" if "?" in secret else f"{wire.url}/x".replace("http://", secret)
    outcome = run_stage(workspace(tmp_path, address))
    assert outcome.returncode == 1
    assert ".netrc" in outcome.stderr
    assert "hunter" not in outcome.stderr + outcome.stdout
    assert wire.log == []


def test_secrets_of_an_unreachable_address_stay_secret(target: Path, capsys: Any) -> None:
    with pytest.raises(NervesegError) as caught:
        download(open_source("http://user:hunter2@127.0.0.1:9/nerves.zip?X-Amz-Signature=hunter3"), target)
    assert "hunter" not in str(caught.value) + capsys.readouterr().err


# paths


def test_a_path_is_copied(tmp_path: Path) -> None:
    (tmp_path / "nerves.zip").write_bytes(CONTENT)
    outcome = run_stage(workspace(tmp_path, "nerves.zip"))
    assert outcome.returncode == 0, outcome.stderr
    target = tmp_path / "data/raw/dataset.zip"
    assert target.read_bytes() == CONTENT
    assert left(target) == ["dataset.zip", "manifest.csv", "source.json"]
    record = json.loads((tmp_path / "data/raw/source.json").read_text())
    assert (record["uri"], record["etag"], record["version_id"]) == ("nerves.zip", None, None)
    assert (record["size"], record["sha256"]) == (len(CONTENT), digest(CONTENT))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.zip", "is missing"),
        ("folder", "is a folder"),
        ("empty.zip", "is empty"),
        ("raw/dataset.zip", "elsewhere"),
    ],
)
def test_a_path_that_cannot_be_copied(tmp_path: Path, target: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.zip").touch()
    target.parent.mkdir()
    target.write_bytes(b"content")
    with pytest.raises(NervesegError, match=message):
        download(open_source(str(tmp_path / name)), target)
    assert target.read_bytes() == b"content"


def test_a_disk_that_takes_no_more(s3: Bucket, proxy: Wire, tmp_path: Path) -> None:
    s3.put("nerves.zip", CONTENT)
    folder = workspace(tmp_path, s3.uri("nerves.zip"))
    limited = subprocess.run(
        ["bash", "-c", f"ulimit -f 2048; exec {shlex.join(STAGE)}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert limited.returncode == 1
    assert "data/raw/dataset.zip.part cannot be written (File too large)" in limited.stderr
    assert "Traceback" not in limited.stderr
    outcome = run_stage(folder)
    assert outcome.returncode == 0, outcome.stderr
    assert proxy.ranges[-1] == f"bytes={2 * MIB}-"
