"""Ports on this machine."""

import socket


def free_port() -> int:
    """A port on 127.0.0.1 that is currently free."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_taken(port: int) -> bool:
    """Whether a process listens on a port of 127.0.0.1."""
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
