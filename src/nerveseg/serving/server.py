"""The process: `nerveseg serve`."""

import ipaddress
import logging
import math

import uvicorn

from nerveseg import params
from nerveseg.errors import NervesegError
from nerveseg.registry.signatures import verify_key
from nerveseg.serving.app import create_app
from nerveseg.serving.champion import Follower
from nerveseg.serving.metrics import Metrics
from nerveseg.settings import settings
from nerveseg.workspace.clones import lasting_storage


def serve(host: str, port: int, delivery: str | None) -> None:
    """Serves the delivered champion until SIGTERM or SIGINT; requests that are under way then are answered.

    Args:
        host: address to listen on.
        delivery: folder or s3://bucket/prefix; None: delivery.uri of params.yaml.

    Raises:
        NervesegError: a setting does not fit; or there are no credentials, and others than this machine could ask.
    """
    configured = settings()
    if configured.predictor_auth is None and not _is_loopback(host):
        raise NervesegError(
            f"{host} may be reached from other machines, and no credentials are set: set NERVESEG_PREDICTOR_AUTH to "
            "user:password, or use --host 127.0.0.1."
        )
    storage = lasting_storage(delivery or params.load().delivery.uri, "--delivery" if delivery else "delivery.uri")
    metrics = Metrics()
    follower = Follower(storage, configured.predictor_poll, metrics, verify_key())
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")  # of every library, from WARNING on
    logging.getLogger("nerveseg").setLevel(logging.INFO)
    uvicorn.run(
        create_app(follower, metrics, configured),
        host=host,
        port=port,
        log_config=None,
        log_level="info",
        server_header=False,
        # The longest that a request may take: its upload, then its scoring.
        timeout_graceful_shutdown=math.ceil(2 * configured.predictor_timeout) + 1,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
