"""Around every request: who may ask."""

from base64 import b64encode
from hmac import compare_digest

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class BasicAuth:
    """Lets requests pass that bear the credentials; all of them to the open paths."""

    def __init__(self, app: ASGIApp, credentials: str, open_paths: frozenset[str]) -> None:
        """`credentials` are user:password."""
        self._app = app
        self._expected = b64encode(credentials.encode())
        self._open = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 401."""
        if scope["type"] != "http" or scope["path"] in self._open or self._knows(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        challenge = {"WWW-Authenticate": 'Basic realm="nerveseg", charset="UTF-8"'}
        refusal = JSONResponse({"detail": "Missing or wrong credentials."}, 401, challenge)
        await refusal(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return compare_digest(given.strip().encode(), self._expected) and scheme.lower() == "basic"
