"""Signed bundles, with real keys: what a delivery writes, and what its readers refuse."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from nerveseg.errors import NervesegError
from nerveseg.files import parse_sums, sums_text
from nerveseg.registry import bundle, delivery, signatures
from nerveseg.registry.bundle import Pointer
from nerveseg.settings import settings
from nerveseg.storage import FolderStorage

NAMES = ("model.onnx", "model.safetensors", "model.json", "reference.json", "card.json", "card.md", "metadata.json")
READ = ("model.onnx", "model.json")  # what the predictor reads
UNSIGNED = r"/3 is not signed: set NERVESEG_SIGNING_KEY"
WRONG = r"/3/SHA256SUMS\.sig is no signature of its SHA256SUMS by the expected key"


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "delivery")


@pytest.fixture
def verified(tmp_path: Path) -> Path:
    """The files of a version that passed its checks."""
    folder = tmp_path / "verified"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(f"content of {name}")
    return folder


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def deliver(storage: FolderStorage, verified: Path, key: Ed25519PrivateKey | None) -> Pointer:
    """Publishes version 3 and points to it."""
    digest = delivery.publish(storage, "3", verified, key)
    former, stamp = bundle.current(storage)
    return delivery.point(storage, former, stamp, "3", "run", digest, [])


def fetch(storage: FolderStorage, pointer: Pointer, folder: Path, key: Ed25519PrivateKey | None) -> Path:
    """What the predictor does."""
    folder.mkdir(exist_ok=True)
    bundle.fetch(storage, pointer, READ, folder, key.public_key() if key else None)
    return folder


def forge(storage: FolderStorage, pointer: Pointer, name: str, content: str) -> Pointer:
    """Changes a file of the bundle and every hash that depends on it, as whoever may write to the storage can."""
    folder = Path(storage.uri) / "3"
    (folder / name).write_text(content)
    sums = parse_sums((folder / "SHA256SUMS").read_bytes())
    sums[name] = hashlib.sha256(content.encode()).hexdigest()
    (folder / "SHA256SUMS").write_bytes(sums_text(sums))
    return replace(pointer, sha256=hashlib.sha256(sums_text(sums)).hexdigest())


def test_a_signed_bundle_is_read_with_its_key(
    storage: FolderStorage, verified: Path, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    pointer = deliver(storage, verified, key)
    assert (fetch(storage, pointer, tmp_path / "to", key) / "model.onnx").read_text() == "content of model.onnx"
    assert fetch(storage, pointer, tmp_path / "to", None), "nobody has to verify"


def test_openssl_verifies_it_without_our_code(
    storage: FolderStorage, verified: Path, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    deliver(storage, verified, key)
    write_public(key, tmp_path / "verify.pem")
    files = ("-inkey", str(tmp_path / "verify.pem"), "-in", "SHA256SUMS", "-sigfile", "SHA256SUMS.sig")
    command = ("openssl", "pkeyutl", "-verify", "-pubin", "-rawin", *files)
    place = Path(storage.uri) / "3"
    assert b"Verified Successfully" in subprocess.run(command, cwd=place, check=True, capture_output=True).stdout
    (place / "SHA256SUMS").write_text("another")
    assert subprocess.run(command, cwd=place, check=False, capture_output=True).returncode != 0


def test_an_unsigned_bundle_is_read_only_where_no_key_is_set(
    storage: FolderStorage, verified: Path, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    pointer = deliver(storage, verified, None)
    assert not (Path(storage.uri) / "3" / "SHA256SUMS.sig").exists()
    assert fetch(storage, pointer, tmp_path / "to", None)
    with pytest.raises(NervesegError, match=UNSIGNED):
        fetch(storage, pointer, tmp_path / "to", key)


def test_another_key_or_a_changed_signature_is_refused(
    storage: FolderStorage, verified: Path, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    pointer = deliver(storage, verified, key)
    with pytest.raises(NervesegError, match=WRONG):
        fetch(storage, pointer, tmp_path / "to", Ed25519PrivateKey.generate())
    signature = Path(storage.uri) / "3" / "SHA256SUMS.sig"
    content = signature.read_bytes()
    for altered in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1], b""):
        signature.write_bytes(altered)
        with pytest.raises(NervesegError, match=WRONG):
            fetch(storage, pointer, tmp_path / "to", key)
    signature.unlink()
    with pytest.raises(NervesegError, match=UNSIGNED):
        fetch(storage, pointer, tmp_path / "to", key)


def test_what_the_hashes_alone_cannot_tell_the_signature_tells(
    storage: FolderStorage, verified: Path, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    forged = forge(storage, deliver(storage, verified, key), "model.onnx", "another network")
    assert (fetch(storage, forged, tmp_path / "to", None) / "model.onnx").read_text() == "another network"
    with pytest.raises(NervesegError, match=WRONG):
        fetch(storage, forged, tmp_path / "to", key)


@pytest.mark.parametrize("is_forged", [False, True])
def test_only_what_was_verified_is_signed(
    storage: FolderStorage, verified: Path, key: Ed25519PrivateKey, tmp_path: Path, is_forged: bool
) -> None:
    """A bundle without our signature, from before there was a key or forged since, is written again."""
    pointer = deliver(storage, verified, None)
    if is_forged:
        forge(storage, pointer, "model.onnx", "another network")
    (verified / "model.onnx").write_text("exported again")
    again = deliver(storage, verified, key)
    assert (fetch(storage, again, tmp_path / "to", key) / "model.onnx").read_text() == "exported again"
    (verified / "model.onnx").write_text("exported once more")
    assert deliver(storage, verified, key).sha256 == again.sha256, "a signed one stays"
    assert again.previous is None, "the version to roll back to is none still"


def test_a_new_key_signs_anew(storage: FolderStorage, verified: Path, key: Ed25519PrivateKey, tmp_path: Path) -> None:
    deliver(storage, verified, key)
    other = Ed25519PrivateKey.generate()
    pointer = deliver(storage, verified, other)
    assert fetch(storage, pointer, tmp_path / "to", other)
    with pytest.raises(NervesegError, match=WRONG):
        fetch(storage, pointer, tmp_path / "to", key)


def test_files_of_the_registry_are_held_against_the_signed_bundle(
    storage: FolderStorage, verified: Path, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    public = key.public_key()
    with pytest.raises(NervesegError, match="/3 does not exist, so nothing of version 3 is signed"):
        bundle.require_signed(storage, "3", verified, public)
    deliver(storage, verified, key)
    assert set(NAMES) < set(bundle.require_signed(storage, "3", verified, public))
    with pytest.raises(NervesegError, match="Only versions are signed"):
        bundle.require_signed(storage, None, verified, public)
    fetched = shutil.copytree(verified, tmp_path / "fetched")
    (fetched / "model.safetensors").write_text("other weights")
    with pytest.raises(NervesegError, match=r"^model\.safetensors of version 3 in MLflow differ"):
        bundle.require_signed(storage, "3", fetched, public)


def test_the_hashes_of_the_code_are_signed(
    storage: FolderStorage, verified: Path, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    public = key.public_key()
    former = shutil.copytree(verified, tmp_path / "former")
    (verified / bundle.CODE).write_text("hashes of the code")
    deliver(storage, verified, key)
    assert bundle.CODE in bundle.require_signed(storage, "3", verified, public)
    for folder in (former, shutil.copytree(verified, tmp_path / "forged")):
        if folder != former:
            (folder / bundle.CODE).write_text("hashes of other code")
        with pytest.raises(NervesegError, match=r"^code\.sha256 of version 3 in MLflow differ"):
            bundle.require_signed(storage, "3", folder, public)


def test_keys_come_from_the_environment(
    key: Ed25519PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_private(key, tmp_path / "signing.pem")
    write_public(key, tmp_path / "verify.pem")
    use(monkeypatch, tmp_path / "signing.pem", tmp_path / "verify.pem")
    private, public = signatures.signing_key(), signatures.verify_key()
    assert private
    assert public
    public.verify(private.sign(b"content"), b"content")
    use(monkeypatch, None, None)
    assert (signatures.signing_key(), signatures.verify_key()) == (None, None)


def test_files_that_are_no_keys_are_refused(
    key: Ed25519PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad.pem"
    use(monkeypatch, bad, bad)
    for read in (signatures.signing_key, signatures.verify_key):
        with pytest.raises(NervesegError, match=r"NERVESEG_\w+_KEY: .*bad\.pem: No such file"):
            read()
    elliptic = ec.generate_private_key(ec.SECP256R1())
    for write in (
        lambda: bad.write_text("no key"),
        lambda: write_private(elliptic, bad),
        lambda: write_private(key, bad, BestAvailableEncryption(b"secret")),
        lambda: write_public(key, bad),
    ):
        write()
        with pytest.raises(NervesegError, match=r"holds no unencrypted Ed25519 private key.*openssl genpkey"):
            signatures.signing_key()
    for write in (lambda: write_public(elliptic, bad), lambda: write_private(key, bad)):
        write()
        with pytest.raises(NervesegError, match=r"holds no Ed25519 public key.*openssl pkey"):
            signatures.verify_key()


def test_the_pointer_stays_as_consumers_know_it(storage: FolderStorage, verified: Path, key: Ed25519PrivateKey) -> None:
    deliver(storage, verified, key)
    pointer = json.loads((Path(storage.uri) / "current.json").read_text())
    assert set(pointer) == {"version", "run_id", "path", "sha256", "previous", "promotion", "at", "checks"}
    listed = parse_sums((Path(storage.uri) / "3" / "SHA256SUMS").read_bytes())
    assert "SHA256SUMS.sig" not in listed


def use(monkeypatch: pytest.MonkeyPatch, signing: Path | None, verify: Path | None) -> None:
    for name, path in (("NERVESEG_SIGNING_KEY", signing), ("NERVESEG_VERIFY_KEY", verify)):
        monkeypatch.setenv(name, str(path or ""))
    settings.cache_clear()


@pytest.fixture(autouse=True)
def read_anew() -> Iterator[None]:
    settings.cache_clear()
    yield
    settings.cache_clear()


def write_private(
    key: PrivateKeyTypes,
    path: Path,
    encryption: KeySerializationEncryption = NoEncryption(),  # noqa: B008
) -> None:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def write_public(key: PrivateKeyTypes, path: Path) -> None:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
