"""The keys that sign and verify bundles: Ed25519 (RFC 8032), PEM files that the environment names. docs/adr/0020"""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from nerveseg.errors import NervesegError
from nerveseg.settings import settings


def signing_key() -> Ed25519PrivateKey | None:
    """The private key that NERVESEG_SIGNING_KEY names; None where it is not set.

    Raises:
        NervesegError: the file cannot be read, or holds no unencrypted Ed25519 private key.
    """
    if (path := settings().signing_key) is None:
        return None
    try:
        key = load_pem_private_key(_read(path, "NERVESEG_SIGNING_KEY"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise NervesegError(
            f"NERVESEG_SIGNING_KEY: {path} holds no unencrypted Ed25519 private key in PEM. Make one: "
            "openssl genpkey -algorithm ed25519 -out signing.pem"
        )
    return key


def verify_key() -> Ed25519PublicKey | None:
    """The public key that NERVESEG_VERIFY_KEY names; None where it is not set.

    Raises:
        NervesegError: the file cannot be read, or holds no Ed25519 public key.
    """
    if (path := settings().verify_key) is None:
        return None
    try:
        key = load_pem_public_key(_read(path, "NERVESEG_VERIFY_KEY"))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise NervesegError(
            f"NERVESEG_VERIFY_KEY: {path} holds no Ed25519 public key in PEM. Make it from the private one: "
            "openssl pkey -in signing.pem -pubout -out verify.pem"
        )
    return key


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NervesegError(f"{setting}: {path}: {error.strerror or error}.") from None
