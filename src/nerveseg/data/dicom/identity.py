"""Names for people, places and files that say nothing to those who do not have the key."""

import hashlib
import hmac

_DIGITS = 12  # hexadecimal: 48 bits, so that two of 100,000 files have one name in 1 of 50,000 datasets


class Identity:
    """Replaces identifiers by their HMAC-SHA256 (RFC 2104). The same key gives the same names."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def subject(self, patient: str) -> str:
        """The name of a patient; empty where the identifier is."""
        return self._hashed("subject", patient) if patient else ""

    def site(self, institution: str) -> str:
        """The name of an institution, which is not empty."""
        return f"site-{self._hashed('site', institution)}"

    def file(self, uid: str) -> str:
        """The name of a file, by its SOPInstanceUID."""
        return self._hashed("file", uid)

    def _hashed(self, kind: str, text: str) -> str:
        # The kind, so that nobody can see that a patient is called as an institution is.
        return hmac.new(self._key, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()[:_DIGITS]
