"""A predictor whose network takes bright pixels for nerve, so that a test decides what is found by what it draws."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import cv2
import httpx
import numpy as np
import onnx
import uvicorn
from onnx import TensorProto, helper, numpy_helper

from nerveseg.model import plausibility
from nerveseg.model.spec import ModelSpec, Plausibility, write_spec
from nerveseg.registry import bundle, delivery
from nerveseg.serving.app import create_app
from nerveseg.serving.champion import Follower
from nerveseg.serving.metrics import Metrics
from nerveseg.settings import Settings
from nerveseg.storage import FolderStorage
from workspace import free_port

HEIGHT, WIDTH = 96, 128
USUAL = (48, 64, 18, 11)  # row, column and half axes


def ellipse(row: float, column: float, a: float, b: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (((rows - row) / b) ** 2 + ((columns - column) / a) ** 2 <= 1).astype(np.uint8)


def frame(*shape: float) -> bytes:
    """A dark PNG with a bright ellipse, or without one."""
    mask = ellipse(*shape) if shape else np.zeros((HEIGHT, WIDTH), np.uint8)
    return cv2.imencode(".png", 50 + 180 * mask)[1].tobytes()


def training(empty: int = 0) -> Plausibility:
    """Statistics of 40 masks like USUAL and of `empty` empty ones."""
    random = np.random.default_rng(70)
    masks = [ellipse(*np.array(USUAL) + random.normal(0, (4, 5, 2, 1))) for _ in range(40)]
    return plausibility.fit([*masks, *[np.zeros_like(masks[0])] * empty])


@contextmanager
def serving(folder: Path, known: Plausibility | None) -> Iterator[httpx.Client]:
    """The predictor on a port of its own, in a thread: `nerveseg serve` itself is tested in e2e/test_predictor.py.

    Args:
        folder: an empty one, for the delivery.
        known: the statistics of the training masks in the delivered version.
    """
    port, metrics = free_port(), Metrics()
    app = create_app(Follower(_deliver(folder, known), 60, metrics, None), metrics, Settings())
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    thread = Thread(target=server.run)
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            _await_ready(client)
            yield client
    finally:
        server.should_exit = True
        thread.join()


def _await_ready(client: httpx.Client) -> None:
    end, said = time.monotonic() + 30, ""
    while time.monotonic() < end:
        try:
            answer = client.get("/readyz")
            if answer.status_code == 200:
                return
            said = answer.text
        except httpx.TransportError as error:
            said = repr(error)
        time.sleep(0.02)
    raise AssertionError(f"the predictor is not ready: {said}")


def _deliver(folder: Path, known: Plausibility | None) -> FolderStorage:
    model = folder / "model"
    model.mkdir()
    spec = ModelSpec(architecture="none", encoder="none", height=HEIGHT, width=WIDTH, threshold=0.5)
    write_spec(spec.model_copy(update={"plausibility": known}), model)
    onnx.save(_network(), model / "model.onnx")
    for name in ("model.safetensors", "reference.json", "card.json", "card.md", "metadata.json"):
        (model / name).write_text("{}")
    (folder / "delivery").mkdir(exist_ok=True)
    storage = FolderStorage(folder / "delivery")
    digest = delivery.publish(storage, "1", model)
    former, stamp = bundle.current(storage)
    delivery.log(storage, delivery.point(storage, former, stamp, "1", "run", digest, []))
    return storage


def _network() -> onnx.ModelProto:
    def tensor(name: str, kind: int) -> onnx.ValueInfoProto:
        sizes: Sequence[str] = ("frames", "height", "width")
        return helper.make_tensor_value_info(name, kind, sizes)

    nodes = [
        helper.make_node("Cast", ["frames"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["grey", "white"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bright",
        [tensor("frames", TensorProto.UINT8)],
        [tensor("probability", TensorProto.FLOAT)],
        [numpy_helper.from_array(np.float32(255), "white")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
