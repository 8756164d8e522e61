"""The delivered champion, followed: a thread looks at the pointer and swaps the scorer."""

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from joblib import cpu_count

from nerveseg.errors import NervesegError, TransientError
from nerveseg.model.spec import SPEC_FILE
from nerveseg.prediction.openvino import ONNX_FILE, OpenVinoScorer
from nerveseg.registry import bundle
from nerveseg.registry.bundle import Pointer
from nerveseg.serving.metrics import Metrics
from nerveseg.storage import Storage

CPUS: int = cpu_count()  # that this container may use
# A stream for four threads: a frame alone is fast, and a network of this size gains little from more threads.
STREAMS = max(1, CPUS // 4)
_REFUSED_FOR = 60.0  # seconds until a bundle that is not what it should be is fetched again
_ENDS_IN = 5.0  # seconds; a download that takes longer ends with the process

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Champion:
    """A loaded version.

    Attributes:
        version: as the pointer names it.
        sha256: of its bundle's SHA256SUMS.
        scorer: its network.
    """

    version: str
    sha256: str
    scorer: OpenVinoScorer


class Follower:
    """Keeps the delivered version loaded. What fails is logged once a cause, and tried again.

    Attributes:
        champion: what answers now; None before the first one is loaded. Whoever took it may use it to the end.
        problem: why the latest look did not bring what is delivered; None where it did.
    """

    def __init__(self, storage: Storage, pause: float, metrics: Metrics, key: Ed25519PublicKey | None) -> None:
        """Follows `storage`, with `pause` seconds between two looks, once `start` is called.

        With a `key`, only bundles that it signed are loaded.
        """
        self.champion: Champion | None = None
        self.problem: str | None = "the first look at the delivery is under way"
        self._storage = storage
        self._pause = pause
        self._metrics = metrics
        self._key = key
        self._refused: Pointer | None = None
        self._refused_until = 0.0
        self._refusal: str | None = None
        self._ending = Event()
        self._thread = Thread(target=self._follow, name="follow the delivery", daemon=True)

    def start(self) -> None:
        """Looks for the first time, and from then on, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ending.set()
        self._thread.join(_ENDS_IN)

    def _follow(self) -> None:
        while not self._ending.is_set():
            self._look()
            self._ending.wait(self._pause)

    def _look(self) -> None:
        former, unexpected = self.problem, None
        try:
            self.problem = self._swap()
        except NervesegError as error:
            self.problem = str(error)
            self._metrics.failed_loads.inc()
        except Exception as error:  # of any class: the thread lives on, and the former version answers
            self.problem, unexpected = f"unexpected: {error!r}", error
            self._metrics.failed_loads.inc()
        if self.problem and self.problem != former:
            log.warning(self.problem, exc_info=unexpected)

    def _swap(self) -> str | None:
        """Loads what is delivered, if it is not loaded. Returns what keeps it from that."""
        pointer, _ = bundle.current(self._storage)
        if pointer is None:
            return f"{self._storage.uri} holds no {bundle.POINTER}: nothing is delivered there."
        former = self.champion
        if former is not None and (former.version, former.sha256) == (pointer.version, pointer.sha256):
            return None
        if pointer == self._refused and time.monotonic() < self._refused_until:
            return self._refusal
        try:
            champion = self._load(pointer)
        except TransientError:
            raise
        except NervesegError as error:
            self._refused, self._refused_until = pointer, time.monotonic() + _REFUSED_FOR
            self._refusal = str(error)
            raise
        self._metrics.loads.inc()
        self._metrics.model.clear()
        self._metrics.model.labels(pointer.version).set(1)
        self.problem, self.champion = None, champion  # in this order: who sees the new one sees no former problem
        log.info("version %s answers now", pointer.version)
        return None

    def _load(self, pointer: Pointer) -> Champion:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            bundle.fetch(self._storage, pointer, (ONNX_FILE, SPEC_FILE), folder, self._key)
            scorer = OpenVinoScorer(folder, streams=STREAMS, threads=CPUS)
        if not np.isfinite(scorer.probability(np.zeros((scorer.spec.height, scorer.spec.width), np.uint8))).all():
            raise NervesegError(f"Version {pointer.version} gives no probabilities for a blank frame.")
        return Champion(pointer.version, pointer.sha256, scorer)
