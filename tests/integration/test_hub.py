"""ImageNet weights from a Hugging Face hub, fetched by real processes from a server that speaks its protocol."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from segmentation_models_pytorch.encoders import encoders, get_encoder

ENCODER = "resnet18"
REASONS = {  # what the error says, by the encoder whose weights cannot be had
    "resnet34": "503",
    "mit_b0": "400",
    "efficientnet-b0": "401",
    "densenet121": "404",
    "mobilenet_v2": "header",
    "mobileone_s0": "peer closed",
}

# Builds a network on each encoder named and saves the encoder's weights; prints how long that took and what it met.
BUILD_EACH = """
import json, sys, time
from safetensors.torch import save_file
from nerveseg.errors import NervesegError
from nerveseg.model.network import build
from nerveseg.model.spec import ModelSpec
folder, *encoders = sys.argv[1:]
for encoder in encoders:
    begun, error = time.monotonic(), None
    try:
        network = build(ModelSpec(architecture="Unet", encoder=encoder, height=64, width=64, threshold=0.5), "imagenet")
        save_file(network.get_submodule("encoder").state_dict(), f"{folder}/{encoder}.safetensors")
    except NervesegError as caught:
        error = str(caught)
    print(json.dumps([encoder, {"error": error, "seconds": time.monotonic() - begun}]))
"""
# Builds one network as a stage does: errors are printed and end the process.
BUILD_ONE = """
import sys
from nerveseg.console import readable_errors
from nerveseg.model.network import build
from nerveseg.model.spec import ModelSpec
with readable_errors():
    build(ModelSpec(architecture="Unet", encoder=sys.argv[1], height=64, width=64, threshold=0.5), "imagenet")
"""


class Hub(ThreadingHTTPServer):
    """Serves files as https://huggingface.co does: `/REPO/resolve/REVISION/FILE`.

    Attributes:
        files: content by path.
        failures: by repository: a status to answer with, or "cut" to close the connection instead of sending weights.
        requests: method and path of what was asked.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.failures: dict[str, int | str] = {}
        self.requests: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, encoder: str, weights: bytes) -> None:
        settings = encoders[encoder]["pretrained_settings"]["imagenet"]
        folder = f"/{settings['repo_id']}/resolve/{settings['revision']}"
        self.files |= {f"{folder}/config.json": b"{}", f"{folder}/model.safetensors": weights}

    def fail(self, encoder: str, failure: int | str) -> None:
        self.failures[encoders[encoder]["pretrained_settings"]["imagenet"]["repo_id"]] = failure


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        self.server.requests.append((self.command, self.path))
        repository, _, rest = self.path[1:].partition("/resolve/")
        failure = self.server.failures.get(repository, 200 if self.path in self.server.files else 404)
        content = self.server.files.get(self.path, b"") if failure in (200, "cut") else b""
        self.send_response(200 if failure == "cut" else int(failure))
        self.send_header("Content-Length", str(len(content)))
        if failure in (200, "cut"):
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", rest.partition("/")[0])
        elif failure == 503:
            self.send_header("Retry-After", "0")
        elif failure == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if failure == "cut" and self.path.endswith(".safetensors"):
            self.close_connection = True
        elif self.command == "GET":
            self.wfile.write(content)


def environment(cache: Path, **more: str) -> dict[str, str]:
    """The environment of a process whose hub is not the user's own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    local = {"HF_HOME": str(cache), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    return {**own, **local, **more}


def build_each(folder: Path, *names: str, env: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What became of each encoder; those built are in `folder`."""
    command = [sys.executable, "-c", BUILD_EACH, str(folder), *names]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(line) for line in ended.stdout.splitlines())


@pytest.fixture(scope="module")
def served() -> dict[str, torch.Tensor]:
    """The weights that the hub has for the encoder, for three channels."""
    torch.manual_seed(7)
    return get_encoder(ENCODER, weights=None).state_dict()


@pytest.fixture(scope="module")
def hub(served: dict[str, torch.Tensor]) -> Iterator[Hub]:
    with Hub() as server:
        server.add(ENCODER, save(served))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def first(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The hub's cache after a first process has fetched, with what it built, and what became of each encoder.

    The hub is overloaded, rejects, lacks the file, sends something else, or breaks off for all but one.
    """
    hub.fail("resnet34", 503)
    hub.fail("mit_b0", 400)
    hub.fail("efficientnet-b0", 401)
    hub.add("mobilenet_v2", b"<html>no weights")
    hub.add("mobileone_s0", b"x" * 1000)
    hub.fail("mobileone_s0", "cut")
    cache = tmp_path_factory.mktemp("hub")
    return cache, build_each(cache, ENCODER, *REASONS, env=environment(cache, HF_ENDPOINT=hub.url))


@pytest.fixture(scope="module")
def filled(first: tuple[Path, dict[str, dict[str, Any]]]) -> Path:
    """The cache after a first process has fetched; what that process built is in it too."""
    cache, results = first
    assert results[ENCODER]["error"] is None
    return cache


@pytest.fixture(scope="module", autouse=True)
def refused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A process whose hub refuses connections: it waits between its tries, so it starts before the other tests."""
    with socket.socket() as bound:  # bound, but nobody listens
        bound.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{bound.getsockname()[1]}"
        env = environment(tmp_path_factory.mktemp("empty"), HF_ENDPOINT=endpoint)
        command = [sys.executable, "-c", BUILD_ONE, ENCODER]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            yield process
            process.kill()


def assert_built(folder: Path, served: dict[str, torch.Tensor]) -> None:
    built = load_file(folder / f"{ENCODER}.safetensors")
    assert built.keys() == served.keys()
    for name, tensor in built.items():
        expected = served[name].sum(1, keepdim=True) if name == "conv1.weight" else served[name]
        torch.testing.assert_close(tensor, expected)


def assert_names_both_ways_out(error: str) -> None:
    assert "could not be fetched from the Hugging Face hub" in error
    for way_out in ("HF_ENDPOINT", "weights/ and name the file in model.encoder_weights"):
        assert way_out in error


def test_the_weights_are_the_hubs_and_the_first_convolution_their_sum(
    filled: Path, hub: Hub, served: dict[str, torch.Tensor]
) -> None:
    assert_built(filled, served)
    assert ("GET", next(path for path in hub.files if path.endswith(".safetensors"))) in hub.requests


def test_offline_the_cache_is_enough_and_what_it_lacks_is_an_error(
    filled: Path, served: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    results = build_each(tmp_path, ENCODER, "resnet50", env=environment(filled, HF_HUB_OFFLINE="1"))
    assert results[ENCODER]["error"] is None
    assert_built(tmp_path, served)
    assert_names_both_ways_out(results["resnet50"]["error"])
    assert "HF_HUB_OFFLINE" in results["resnet50"]["error"]
    assert results["resnet50"]["seconds"] < 10


def test_whatever_goes_wrong_is_the_same_error_with_its_reason(first: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    _, results = first
    assert results.keys() == {ENCODER, *REASONS}
    for encoder, reason in REASONS.items():
        error = results[encoder]["error"]
        assert_names_both_ways_out(error)
        assert encoder in error
        assert reason in error.splitlines()[0]
        assert results[encoder]["seconds"] < 60


def test_a_hub_that_refuses_connections_ends_the_process_as_a_network_that_failed(
    refused: subprocess.Popen[str],
) -> None:
    _, errors = refused.communicate(timeout=60)
    assert refused.returncode == 75, "worth another try"
    error = errors[errors.rindex("error:") :]  # after the client's own warnings
    assert_names_both_ways_out(error)
    assert "Connection refused" in error
    assert "Traceback" not in errors
