"""The predictor as its users meet it: a process by `nerveseg serve`, asked over HTTP."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from PIL import Image

from nerveseg.data import rle
from nerveseg.errors import NervesegError
from nerveseg.evaluation import metrics
from nerveseg.model import plausibility
from nerveseg.model.network import build, save
from nerveseg.model.spec import ModelSpec
from nerveseg.prediction.export import export
from nerveseg.prediction.openvino import OpenVinoScorer
from nerveseg.registry import bundle, delivery
from nerveseg.storage import FolderStorage
from workspace import free_port, wait_for

SPEC = ModelSpec(architecture="Unet", encoder="resnet18", height=64, width=64, threshold=0.5)
# Version 2 was registered before there was atypicality.
PLAUSIBILITY = {"1": plausibility.fit([np.pad(np.ones((4, side)), 9) for side in (6, 7, 8)]), "2": None}
MOST = 4096  # pixels of a side; a frame of that size takes a good part of a second
SEGMENT = "/v1/segment"
# A form that is sent bit by bit.
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
HEAD = b'--b\r\nContent-Disposition: form-data; name="frame"; filename="f"\r\n\r\n'
NERVESEG = str(Path(sys.executable).with_name("nerveseg"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of two versions, of different networks."""
    folders = {}
    for version in ("1", "2"):
        folders[version] = folder = tmp_path_factory.mktemp(f"version-{version}")
        torch.manual_seed(int(version))
        network = build(SPEC).eval()
        save(network, SPEC.model_copy(update={"plausibility": PLAUSIBILITY[version]}), folder)
        export(network, SPEC, folder / "model.onnx")
        for name in ("reference.json", "card.json", "card.md", "metadata.json"):
            (folder / name).write_text("{}")
    return folders


def deliver(storage: FolderStorage, models: dict[str, Path], version: str) -> None:
    """What the flow `deliver` does with a version that passed its checks."""
    digest = delivery.publish(storage, version, models[version])
    point(storage, version, digest)


def point(storage: FolderStorage, version: str, digest: str) -> None:
    former, stamp = bundle.current(storage)
    delivery.log(storage, delivery.point(storage, former, stamp, version, "run", digest, []))


class Server:
    """A running predictor, and a client for it."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log
        self.client = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def segment(self, content: bytes, **more: Any) -> httpx.Response:
        return self.client.post(SEGMENT, files={"frame": ("frame.png", content)}, **more)

    def is_ready(self) -> bool:
        return self.client.get("/readyz").status_code == 200

    def answers(self) -> bool:
        try:
            return self.client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def metric(self, name: str) -> float:
        text = self.client.get("/metrics").text
        found = re.search(rf"^nerveseg_predictor_{re.escape(name)} (\S+)$", text, re.M)
        return float(found.group(1)) if found else 0.0


@contextmanager
def serving(folder: Path, storage: FolderStorage, ready: bool = True, **settings: str) -> Iterator[Server]:
    """A predictor on a free port that looks at the delivery five times a second."""
    port, log = free_port(), folder / "server.log"
    variables = {"POLL": "0.2", **settings}
    environment = os.environ | {f"NERVESEG_PREDICTOR_{name}": value for name, value in variables.items()}
    command = (NERVESEG, "serve", "--port", str(port), "--delivery", storage.uri)
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file, text=True)
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_for("the server's answer", server.answers, process)
        if ready:
            wait_for("a champion", server.is_ready, process)
        yield server
    finally:
        process.kill()
        process.wait()
        server.client.close()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> FolderStorage:
    storage = FolderStorage(tmp_path_factory.mktemp("delivery"))
    deliver(storage, models, "1")
    return storage


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, storage: FolderStorage) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), storage, UPLOAD_MB="1") as running:
        yield running


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    return cv2.resize(np.random.default_rng(70).integers(0, 256, (20, 30), dtype=np.uint8), (150, 100))


def encoded(frame: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, frame)[1].tobytes()


def decoded(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_answers_are_those_of_the_scorer(
    server: Server, models: dict[str, Path], frame: np.ndarray, suffix: str
) -> None:
    scorer = OpenVinoScorer(models["1"], streams=1, threads=1)
    probability = scorer.probability(frame)
    mask = scorer.mask(probability)
    assert 0 < mask.mean() < 1
    content = encoded(frame, suffix)

    found = server.segment(content).json()
    assert (rle.decode(found["rle_mask"], *frame.shape) == mask).all()
    assert found.pop("rle_mask") == rle.encode(mask)
    confidence, atypicality = found.pop("confidence"), found.pop("atypicality")
    assert atypicality == pytest.approx(plausibility.atypicality(mask, PLAUSIBILITY["1"]), abs=1e-6)
    assert 0 < atypicality < 1
    assert confidence == pytest.approx(metrics.confidence(probability, mask), abs=1e-4)
    assert found.pop("assessment") in ("typical", "atypical")
    assert found.pop("message").startswith("This mask is ")
    assert found == {
        "image": "frame.png",
        "area": int(mask.sum()),
        "area_mm2": None,
        "spacing_mm": None,
        "height": 100,
        "width": 150,
        "model_version": "1",
    }

    for kind in ("mask", "overlay"):
        answer = server.segment(content, params={"format": kind})
        assert answer.headers["content-type"] == "image/png"
        assert (answer.headers["x-model-version"], answer.headers["x-area"]) == ("1", str(mask.sum()))
        assert float(answer.headers["x-confidence"]) == pytest.approx(confidence, abs=1e-5)
        assert float(answer.headers["x-atypicality"]) == pytest.approx(atypicality, abs=1e-5)
        picture = decoded(answer.content)
        if kind == "mask":
            assert np.array_equal(picture, mask * 255)
        else:
            assert picture.shape == (100, 150, 3)
            assert (picture[..., 0] != picture[..., 2]).any(), "an outline in colour"


def pages_of_a_tiff() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (9, 9)).save(stream, "TIFF", save_all=True, append_images=[Image.new("L", (9, 9))])
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (b"no picture", 422, "The file is not a PNG, JPEG, TIFF or BMP."),
        (b"", 422, "The file is not a PNG, JPEG, TIFF or BMP."),
        (encoded(np.zeros((99, 99), np.uint8))[:60], 422, "The file is damaged"),
        (encoded(np.zeros((99, 99), np.uint16)), 422, "The file has 16 bits per sample"),
        (pages_of_a_tiff(), 422, "The file holds several pages"),
        (encoded(np.zeros((MOST + 1, MOST), np.uint8)), 413, "The file has 4096x4097 pixels"),
        (bytes(2**20), 413, "The upload is larger than 1 MiB."),
    ],
)
def test_what_is_no_frame_is_refused_in_one_sentence(
    server: Server, content: bytes, status: int, sentence: str
) -> None:
    answer = server.segment(content)
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]


def test_a_form_without_a_frame_is_refused(server: Server, frame: np.ndarray) -> None:
    def post(**more: Any) -> tuple[int, str]:
        answer = server.client.post(SEGMENT, **more)
        return answer.status_code, answer.json()["detail"]

    assert post(content=encoded(frame))[0] == 415
    assert post(files={"other": b"x"}) == (422, "The form lacks a file in the field 'frame'.")
    assert post(files={"frame": (None, "text")})[0] == 422
    assert post(content=b"x", headers={"Content-Type": "multipart/form-data"})[0] == 400
    assert post(content=b"junk", headers={"Content-Type": "multipart/form-data; boundary=a"})[0] == 400
    status, sentence = post(files={"frame": encoded(frame)}, params={"format": "gif"})
    assert status == 422
    assert "'json', 'layers', 'mask' or 'overlay'" in sentence


def test_an_endless_upload_ends_at_the_limit(server: Server) -> None:
    """Without Content-Length, the size shows while reading only."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield HEAD
        while sent < 50 * 2**20:
            sent += 2**16
            yield bytes(2**16)

    before = resident(server.process)
    answer = server.client.post(SEGMENT, content=endless(), headers=FORM)
    assert (answer.status_code, answer.json()["detail"]) == (413, "The upload is larger than 1 MiB.")
    assert resident(server.process) - before < 20, "MB"


def resident(process: subprocess.Popen[str]) -> float:
    """MB of memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found
    return int(found.group(1)) / 1024


def test_it_runs_without_torch_and_mlflow(server: Server, frame: np.ndarray) -> None:
    assert server.segment(encoded(frame)).status_code == 200
    loaded = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "openvino" in loaded
    assert "libtorch" not in loaded


def test_pages_load_nothing_from_elsewhere(server: Server) -> None:
    for path in ("/", "/docs"):
        page = server.client.get(path)
        assert "default-src 'none'" in page.headers["content-security-policy"]
        parts = [*re.findall(r"static/[\w.]+", page.text), "static/viewer.js"]
        assert "static/style.css" in parts
        for text in (page.text, *(server.client.get(f"/{part}").raise_for_status().text for part in parts)):
            assert re.findall(r"(?:https?:)?//[\w.]+\.\w+", text) == []
    assert "POST /v1/segment" in server.client.get("/docs").text


def test_the_schema_describes_the_answers(server: Server, frame: np.ndarray) -> None:
    import jsonschema

    schema = server.client.get("/openapi.json").json()
    answers = schema["paths"][SEGMENT]["post"]["responses"]
    model = schema["components"]["schemas"]["Segmentation"]
    jsonschema.validate(server.segment(encoded(frame)).json(), model)
    assert set(answers) == {"200", "400", "401", "408", "413", "415", "422", "429", "503"}


def test_metrics_count_requests_and_name_the_version(server: Server, frame: np.ndarray) -> None:
    before = [server.metric(name) for name in ('requests_total{status="200"}', "request_seconds_count")]
    server.segment(encoded(frame))
    after = [server.metric(name) for name in ('requests_total{status="200"}', "request_seconds_count")]
    assert np.subtract(after, before).tolist() == [1, 1]
    assert server.metric('model_info{version="1"}') == 1
    assert (server.metric("loads_total"), server.metric("failed_loads_total"), server.metric("queue")) == (1, 0, 0)
    assert "frame.png" not in server.log.read_text()


def test_what_takes_too_long_ends_in_an_answer(tmp_path: Path, storage: FolderStorage) -> None:
    large = encoded(np.zeros((MOST, MOST), np.uint8))
    with serving(tmp_path, storage, TIMEOUT="0.05") as server:
        answers = [server.segment(large) for _ in range(5)]
        late = [answer for answer in answers if answer.status_code == 503]
        assert late, "a small upload, long to score"
        assert "not scored within 0.05 s" in late[0].json()["detail"]
        assert "retry-after" in late[0].headers

        def slow() -> Iterator[bytes]:
            yield b"--b\r\n"
            time.sleep(1)
            yield b"more"

        answer = server.client.post(SEGMENT, content=slow(), headers=FORM)
        assert (answer.status_code, answer.json()["detail"]) == (408, "The upload took longer than 0.05 s.")
        assert server.metric("queue") == 0
        assert "Traceback" not in server.log.read_text()


def test_a_full_queue_refuses_and_sigterm_lets_the_others_finish(
    tmp_path: Path, storage: FolderStorage, frame: np.ndarray
) -> None:
    going_on, content = threading.Event(), encoded(frame)

    def in_two_parts() -> Iterator[bytes]:
        yield HEAD + content[:100]
        going_on.wait(60)
        yield content[100:] + b"\r\n--b--\r\n"

    def upload() -> httpx.Response:
        return server.client.post(SEGMENT, content=in_two_parts(), headers=FORM)

    with serving(tmp_path, storage, QUEUE="2") as server, ThreadPoolExecutor(2) as pool:
        uploads = [pool.submit(upload) for _ in range(2)]
        wait_for("two requests", lambda: server.metric("queue") == 2, server.process)
        refused = server.segment(content)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "Too many frames are waiting" in refused.json()["detail"]
        assert server.metric('requests_total{status="429"}') == 1
        server.process.send_signal(signal.SIGTERM)
        wait_for("the end of listening", lambda: "Shutting down" in server.log.read_text(), server.process)
        going_on.set()
        assert [one.result().status_code for one in uploads] == [200, 200]
        assert server.process.wait(30) == -signal.SIGTERM
        assert "Traceback" not in server.log.read_text()


def test_nobody_is_served_without_credentials(tmp_path: Path, storage: FolderStorage, frame: np.ndarray) -> None:
    with serving(tmp_path, storage, AUTH="nurse:päss:word") as server:
        paths = ("/", "/docs", "/openapi.json", "/metrics", "/static/style.css", SEGMENT, "/healthz/", "/nothing")
        for given in (None, ("nurse", "password"), ("nurse", ""), ("", "päss:word")):
            for path in paths:
                answer = server.client.get(path, auth=given)
                assert answer.status_code == 401, (path, given)
                assert answer.headers["www-authenticate"].startswith("Basic ")
            assert server.segment(encoded(frame), auth=given).status_code == 401
        assert server.client.get("/metrics", headers={"Authorization": "Bearer x"}).status_code == 401
        assert server.client.get("/healthz").status_code == 200
        assert server.client.get("/readyz").status_code == 200
        right = ("nurse", "päss:word")
        assert server.segment(encoded(frame), auth=right).status_code == 200
        assert server.client.get("/", auth=right).status_code == 200
        assert "word" not in server.log.read_text()


def test_it_does_not_listen_to_others_without_credentials(tmp_path: Path) -> None:
    command = (NERVESEG, "serve", "--host", "0.0.0.0", "--delivery", str(tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "0.0.0.0 may be reached from other machines, and no credentials are set" in done.stderr
    assert "Traceback" not in done.stderr


def test_deliveries_are_followed_under_load(tmp_path: Path, models: dict[str, Path], frame: np.ndarray) -> None:
    """From nothing delivered, to version 1, to 2 while clients ask; a tampered bundle and a storage that is gone."""
    storage, content = FolderStorage(tmp_path / "delivery"), encoded(frame)
    with serving(tmp_path, storage, ready=False) as server:
        assert server.client.get("/healthz").status_code == 200
        refused = server.client.get("/readyz")
        assert refused.status_code == 503
        wait_for("a reason", lambda: "nothing is delivered" in server.client.get("/readyz").text, server.process)
        answer = server.segment(content)
        assert (answer.status_code, "nothing is delivered" in answer.json()["detail"]) == (503, True)
        deliver(storage, models, "1")
        wait_for("version 1", server.is_ready, server.process)
        assert server.client.get("/readyz").json() == {"version": "1", "problem": None}

        ending = threading.Event()

        def ask(_: int) -> list[tuple[int, str]]:
            seen = []
            with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
                while not ending.is_set():
                    reply = client.post(SEGMENT, files={"frame": content})
                    seen.append((reply.status_code, reply.json().get("model_version", "")))
            return seen

        with ThreadPoolExecutor(6) as pool:
            clients = [pool.submit(ask, number) for number in range(6)]
            time.sleep(0.5)
            deliver(storage, models, "2")
            wait_for("version 2", lambda: server.client.get("/readyz").json()["version"] == "2", server.process)
            time.sleep(0.5)
            ending.set()
        for client in clients:
            seen = client.result()
            assert {status for status, _ in seen} <= {200, 429}
            versions = [version for status, version in seen if status == 200]
            assert set(versions) == {"1", "2"}
            assert versions == sorted(versions), "never the old one after the new"
        assert server.segment(content).json()["atypicality"] is None
        assert "x-atypicality" not in server.segment(content, params={"format": "mask"}).headers
        assert server.metric("loads_total") == 2
        assert (server.metric('model_info{version="1"}'), server.metric('model_info{version="2"}')) == (0, 1)

        tamper(storage, models)
        wait_for("the refusal", lambda: server.metric("failed_loads_total") > 0, server.process)
        ready = server.client.get("/readyz")
        assert (ready.status_code, ready.json()["version"]) == (200, "2")
        assert "3/model.onnx is not what SHA256SUMS says of it" in ready.json()["problem"]
        assert server.segment(content).json()["model_version"] == "2"

        moved = Path(storage.uri).rename(tmp_path / "gone")
        wait_for("its absence", lambda: "holds no current.json" in server.client.get("/readyz").text, server.process)
        assert server.segment(content).json()["model_version"] == "2"
        time.sleep(1)  # several looks
        moved.rename(storage.uri)
        deliver(storage, models, "1")
        wait_for("version 1", lambda: server.client.get("/readyz").json()["version"] == "1", server.process)
        assert server.client.get("/readyz").json()["problem"] is None
        log = server.log.read_text()
        assert log.count("3/model.onnx is not what") in (1, 2), "again once the storage was back"
        assert log.count("holds no current.json") == 2, "before the first delivery and while it was gone"


def test_with_a_key_only_signed_bundles_answer(
    tmp_path: Path, models: dict[str, Path], frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Ed25519PrivateKey.generate()
    public = tmp_path / "verify.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    storage = FolderStorage(tmp_path / "delivery")
    deliver(storage, models, "1")
    monkeypatch.setenv("NERVESEG_VERIFY_KEY", str(public))
    with serving(tmp_path, storage, ready=False) as server:
        wait_for("the refusal", lambda: "1 is not signed" in server.client.get("/readyz").text, server.process)
        assert server.segment(encoded(frame)).status_code == 503
        point(storage, "2", delivery.publish(storage, "2", models["2"], key))
        wait_for("the signed version", server.is_ready, server.process)
        assert server.segment(encoded(frame)).json()["model_version"] == "2"
        point(storage, "3", delivery.publish(storage, "3", models["1"], Ed25519PrivateKey.generate()))
        wait_for("the refusal", lambda: "is no signature" in server.client.get("/readyz").text, server.process)
        assert server.segment(encoded(frame)).json()["model_version"] == "2"


def test_a_key_that_is_none_is_named_at_the_start(
    tmp_path: Path, storage: FolderStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NERVESEG_VERIFY_KEY", str(tmp_path / "missing.pem"))
    command = (NERVESEG, "serve", "--port", str(free_port()), "--delivery", storage.uri)
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 1
    assert "NERVESEG_VERIFY_KEY" in process.stderr + process.stdout
    assert "Traceback" not in process.stderr


def tamper(storage: FolderStorage, models: dict[str, Path]) -> None:
    """Delivers a version 3, and changes a byte of its network before anybody reads it."""
    digest = delivery.publish(storage, "3", models["1"])
    network = Path(storage.uri) / "3" / "model.onnx"
    content = network.read_bytes()
    network.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    point(storage, "3", digest)


def test_sums_that_the_pointer_does_not_name_are_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    storage = FolderStorage(tmp_path)
    deliver(storage, models, "1")
    pointer, _ = bundle.current(storage)
    assert pointer
    sums = tmp_path / "1" / "SHA256SUMS"
    (tmp_path / "1" / "card.md").write_text("another")
    sums.write_text(sums.read_text().replace("card.md", "other.md"))
    (tmp_path / "to").mkdir()
    with pytest.raises(NervesegError, match=r"SHA256SUMS is not what current\.json says of it"):
        bundle.fetch(storage, pointer, ["model.json"], tmp_path / "to")
    sums.unlink()
    with pytest.raises(NervesegError, match="lacks a file"):
        bundle.fetch(storage, pointer, ["model.json"], tmp_path / "to")
