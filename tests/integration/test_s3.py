"""What S3 servers answer and what users are told of it; and the stack's bucket, which goes through the same client."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conftest import Bucket
from nerveseg import s3 as client
from nerveseg.errors import ChangedError, NervesegError, TransientError
from stack import bucket as stack_bucket

RUNNER = CliRunner()


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, aws_environment: None) -> Iterator[Callable[[int, str], client.Bucket]]:
    """`answering(status, code)`: a bucket at a server that gives this answer to every write, and cuts every read."""
    servers = []

    def start(status: int, code: str) -> client.Bucket:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = f"<Error><Code>{code}</Code><Message>because</Message></Error>".encode()
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"half of it")

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        return client.Bucket("bucket", retries=False)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (501, "NotImplemented", NervesegError, "lacks conditional writes"),
        (
            403,
            "InvalidAccessKeyId",
            client.AccessError,
            "Missing or wrong credentials.*AWS_PROFILE",
        ),
        (412, "PreconditionFailed", ChangedError, "s3://bucket/current.json was written by another process"),
        (409, "ConditionalRequestConflict", ChangedError, "another process"),
        (404, "NoSuchKey", ChangedError, "another process"),
        (404, "NoSuchBucket", NervesegError, "Check the bucket"),
        (503, "SlowDown", TransientError, "SlowDown"),
        (400, "AuthorizationHeaderMalformed", NervesegError, "AWS_DEFAULT_REGION"),
    ],
)
def test_a_conditional_write_that_is_refused_says_why(
    answering: Callable[[int, str], client.Bucket], status: int, code: str, kind: type[NervesegError], message: str
) -> None:
    bucket = answering(status, code)
    with pytest.raises(NervesegError, match=message) as caught:
        bucket.replace("current.json", b"{}", "an-etag")
    assert type(caught.value) is kind


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"])
def test_expired_credentials_are_told_although_the_status_is_400(
    answering: Callable[[int, str], client.Bucket], code: str
) -> None:
    with pytest.raises(client.AccessError, match=f"{code}.* expired ones.*AWS_PROFILE"):
        answering(400, code).put("key", b"content")


def test_a_reply_that_ends_early_is_no_content(answering: Callable[[int, str], client.Bucket]) -> None:
    bucket = answering(200, "")
    with pytest.raises(TransientError, match=r"s3://bucket/key: the connection ended early\."):
        list(bucket.get("key").chunks)


def test_without_credentials_the_message_names_the_variables(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(client.AccessError, match="AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        client.Bucket(s3.name).put("a", b"")


def test_a_disk_that_cannot_be_written_is_told_with_its_path(s3: Bucket, tmp_path: Path) -> None:
    s3.put("a", b"content")
    (tmp_path / "a").mkdir()
    with pytest.raises(NervesegError, match=f"s3://{s3.name}/a: .*directory.*{tmp_path}/a"):
        client.Bucket(s3.name).download("a", tmp_path / "a")


def test_the_stacks_bucket_is_created_once_with_versioning(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", f"{s3.name}-new")
    for _ in range(2):
        outcome = RUNNER.invoke(stack_bucket.app, ["init"])
        assert outcome.exit_code == 0, outcome.output
    assert s3.client.get_bucket_versioning(Bucket=f"{s3.name}-new")["Status"] == "Enabled"


def test_a_backup_is_restored_into_another_bucket(s3: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    s3.put("dvc/one", b"1")
    s3.put("dvc/one", b"current")
    s3.put("two", b"2")
    monkeypatch.setenv("S3_BUCKET", s3.name)
    backup = str(tmp_path / "backup")
    assert RUNNER.invoke(stack_bucket.app, ["backup", backup]).exit_code == 0
    assert RUNNER.invoke(stack_bucket.app, ["backup", backup]).exit_code == 1, "never over another backup"

    monkeypatch.setenv("S3_BUCKET", f"{s3.name}-restored")
    assert RUNNER.invoke(stack_bucket.app, ["init"]).exit_code == 0
    assert RUNNER.invoke(stack_bucket.app, ["restore", backup]).exit_code == 0
    restored = client.Bucket(f"{s3.name}-restored")
    contents = {key: b"".join(restored.get(key).chunks) for key, _ in restored.etags()}
    assert contents == {"dvc/one": b"current", "two": b"2"}


def test_a_backup_of_no_bucket_leaves_no_folder(s3: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("S3_BUCKET", "no-such-bucket")
    outcome = RUNNER.invoke(stack_bucket.app, ["backup", str(tmp_path / "backup")])
    assert outcome.exit_code == 1
    assert "Check the bucket in S3_BUCKET" in outcome.stderr.replace("\n", " ")
    assert not (tmp_path / "backup").exists()
