"""A web server whose answers tests choose, cut, hold back and count, such as one between a download and S3."""

import http.client
import http.server
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Exchange:
    """A request as it came over the wire, and how many bytes of body went back."""

    path: str
    headers: Mapping[str, str]
    status: int
    sent: int


@dataclass
class Wire:
    """A web server whose bodies can be cut or held back, and which remembers every request."""

    answer: Callable[[str, Mapping[str, str]], Answer]
    cuts: list[int] = field(default_factory=list)  # bytes after which each next body is cut
    at_cut: Callable[[], object] = lambda: None
    resets: bool = False  # a cut is a reset (RST), once the client has taken what was sent
    stall_at: int | None = None  # bytes after which a body hangs until `release` is set
    release: threading.Event = field(default_factory=threading.Event)
    log: list[Exchange] = field(default_factory=list)
    url: str = ""

    @property
    def sent(self) -> int:
        return sum(exchange.sent for exchange in self.log)

    @property
    def ranges(self) -> list[str | None]:
        return [exchange.headers.get("Range") for exchange in self.log]


def handler(wire: Wire) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = wire.answer(self.path, self.headers)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            end = wire.cuts.pop(0) if wire.cuts and status < 300 else len(body)
            exchange = Exchange(self.path, self.headers, status, len(body[:end]))
            wire.log.append(exchange)
            if wire.stall_at is not None:
                exchange.sent = wire.stall_at
                self.wfile.write(body[: wire.stall_at])
                self.wfile.flush()
                wire.release.wait(60)
                return
            self.wfile.write(body[:end])
            if end < len(body):
                wire.at_cut()
                if wire.resets:
                    time.sleep(0.1)
                    self.wfile.flush()
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.connection.close()

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


@contextmanager
def serving(answer: Callable[[str, Mapping[str, str]], Answer], tls: ssl.SSLContext | None = None) -> Iterator[Wire]:
    """A running web server; its `url` is its address."""
    wire = Wire(answer)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(wire))
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    wire.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield wire
    finally:
        wire.release.set()
        server.shutdown()
        server.server_close()


def forward_to(endpoint: str) -> Callable[[str, Mapping[str, str]], Answer]:
    def answer(path: str, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=30)
        connection.request("GET", path, headers=dict(headers))
        reply = connection.getresponse()
        body = reply.read()
        connection.close()
        return reply.status, {k: v for k, v in reply.getheaders() if k.lower() not in ("connection", "date")}, body

    return answer
