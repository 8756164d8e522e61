"""The routes: frames in, masks out; health, metrics, and two pages that load nothing from elsewhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from nerveseg.data.archive import UnfitImageError, decode_grey
from nerveseg.prediction import pictures
from nerveseg.prediction.batch import row
from nerveseg.serving.bounds import FIELD, Queue, read_frame
from nerveseg.serving.champion import STREAMS, Champion, Follower
from nerveseg.serving.docs import page
from nerveseg.serving.metrics import Metrics
from nerveseg.serving.middleware import BasicAuth
from nerveseg.settings import Settings

SEGMENT = "/v1/segment"
_OPEN = frozenset({"/healthz", "/readyz"})
_STATIC = Path(__file__).with_name("static")
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_SILENT: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
_DESCRIPTION = "Finds nerves in ultrasound frames. Research and teaching only: this is no medical device."

Format = Literal["json", "mask", "overlay"]


class Segmentation(BaseModel):
    """What was found on a frame."""

    image: str = Field(description="file name, as uploaded")
    rle_mask: str = Field(description="run lengths, 'start length ...', down the columns from 1; empty: no nerve")
    area: int = Field(description="pixels of the mask")
    confidence: float | None = Field(description="mean probability within the mask; null: no nerve")
    atypicality: float | None = Field(
        description="how unlike the training masks this one is, in [0, 1]; above 0.5, it is more atypical than 95 % of "
        "them; null: the version predates this field"
    )
    height: int = Field(description="height of the frame in pixels")
    width: int = Field(description="width of the frame in pixels")
    model_version: str = Field(description="version of the model that segmented the frame")


class Readiness(BaseModel):
    """Whether the predictor can segment frames."""

    version: str | None = Field(description="version of the model that is loaded")
    problem: str | None = Field(description="why the delivered version is not loaded")


class Problem(BaseModel):
    """Why the request failed."""

    detail: str


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "The form is damaged or incomplete.",
        401: "Credentials are needed.",
        408: "The upload took too long.",
        413: "The upload is too large, or the frame has too many pixels.",
        415: "The request is not multipart/form-data.",
        422: "The form has no frame, or the file is not one: not a PNG, JPEG, TIFF or BMP, damaged, or with several "
        "pages or more than 8 bits per sample.",
        429: "Too many frames are waiting; Retry-After says when to try again.",
        503: "No version is loaded yet, or the frame was not segmented in time.",
    }.items()
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What was found, or a PNG at the frame's size: the mask, 0 and 255, or the frame with its "
        "outline. A PNG comes with X-Model-Version, X-Area, X-Atypicality and, where there is a nerve, X-Confidence.",
        "model": Segmentation,
        "content": {"image/png": {}},
    }
}
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {
                            "type": "string",
                            "format": "binary",
                            "description": "a grey frame: PNG, JPEG, TIFF or BMP, 8 bits per sample, any size up to "
                            "16777216 pixels; it is turned as its orientation says, and colours become grey",
                        }
                    },
                }
            }
        },
    }
}


def create_app(follower: Follower, metrics: Metrics, settings: Settings) -> FastAPI:
    """The application; it starts and stops `follower`."""
    # Twice as many threads as frames are scored at once: the others decode and encode meanwhile.
    queue = Queue(2 * STREAMS, settings.predictor_queue, metrics.queue)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        follower.start()
        yield
        queue.close()
        follower.stop()

    app = FastAPI(
        title="nerveseg predictor",
        version="1",
        description=_DESCRIPTION,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        telemetry=_SILENT,
        lifespan=lifespan,
    )
    app.mount("/static", StaticFiles(directory=_STATIC))
    app.add_exception_handler(RequestValidationError, _one_sentence)
    if settings.predictor_auth is not None:
        app.add_middleware(BasicAuth, credentials=settings.predictor_auth.get_secret_value(), open_paths=_OPEN)
    metrics.count(app, SEGMENT)  # after the authentication, so that it is around it: what is refused counts too

    @app.post(SEGMENT, responses=_ANSWER | _PROBLEMS, openapi_extra=_FORM, response_model=None)
    async def segment(request: Request, format: Format = "json") -> Response:
        """Find the nerve in a frame."""
        with queue.place():
            name, content = await read_frame(request, settings.predictor_upload_mb * 2**20, settings.predictor_timeout)
            work = partial(_segment, follower, name, content, format)
            return await queue.run(work, settings.predictor_timeout)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process is running. Needs no credentials."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: {"model": Readiness, "description": "No version is loaded yet."}})
    async def readyz(response: Response) -> Readiness:
        """Which version is loaded, and why a newer one is not. Needs no credentials."""
        champion = follower.champion
        if champion is None:
            response.status_code = 503
        return Readiness(version=champion.version if champion else None, problem=follower.problem)

    @app.get("/metrics", response_class=Response, responses={200: {"description": "Prometheus' text format."}})
    async def show_metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse((_STATIC / "index.html").read_text(encoding="utf-8"), headers=_PAGE_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()), headers=_PAGE_HEADERS)

    return app


def _segment(follower: Follower, name: str, content: bytes, format: Format) -> Response:
    """The response to an uploaded file, from the version that is loaded when its turn comes."""
    try:
        frame, _ = decode_grey(content)
    except UnfitImageError as error:
        status = 413 if error.kind == "too large" else 422
        raise HTTPException(status, f"The file {error}.") from None
    champion = _loaded(follower)
    probability = champion.scorer.probability(frame)
    mask = champion.scorer.mask(probability)
    found = row(name, probability, mask, champion.scorer.atypicality(mask), champion.version)
    headers = {"Cache-Control": "no-store"}
    if format == "json":
        return JSONResponse(found, headers=headers)
    headers |= {"X-Model-Version": champion.version, "X-Area": str(found["area"])}
    if found["area"]:
        headers["X-Confidence"] = f"{found['confidence']:.6f}"
    if found["atypicality"] is not None:
        headers["X-Atypicality"] = f"{found['atypicality']:.6f}"
    png = pictures.mask_png(mask) if format == "mask" else pictures.overlay_png(frame, mask)
    return Response(png, media_type="image/png", headers=headers)


def _loaded(follower: Follower) -> Champion:
    if follower.champion is None:
        raise HTTPException(503, f"No version is loaded yet: {follower.problem}", {"Retry-After": "5"})
    return follower.champion


async def _one_sentence(_request: Request, error: Exception) -> JSONResponse:
    """Invalid query parameters, reported like any other error."""
    assert isinstance(error, RequestValidationError)
    wrong = (f"{detail['loc'][-1]}: {detail['msg']}" for detail in error.errors())
    return JSONResponse({"detail": "; ".join(wrong)}, 422)
