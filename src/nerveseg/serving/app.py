"""The routes: frames in, masks out; health, metrics, and two pages that load nothing from elsewhere."""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from nerveseg.data.archive import UnfitImageError, decode_grey
from nerveseg.prediction import pictures
from nerveseg.prediction.assessment import Kind, assess
from nerveseg.prediction.batch import row
from nerveseg.serving.bounds import FIELD, SPACING, Queue, Upload, read_form
from nerveseg.serving.champion import STREAMS, Champion, Follower
from nerveseg.serving.docs import page, samples
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

Format = Literal["json", "layers", "mask", "overlay"]
_FORMATS = (
    "in the query; json; layers: the same with the frame and the mask as pictures; mask or overlay: that picture alone"
)
_EXAMPLE: JsonDict = {
    "image": "frame.png",
    "rle_mask": "23 2 32 4 42 4 53 2",
    "area": 12,
    "area_mm2": 0.0768,
    "spacing_mm": [0.08, 0.08],
    "confidence": 0.91,
    "atypicality": 0.62,
    "assessment": "atypical",
    "message": "This mask is more atypical than 95 % of the training masks: check it before use.",
    "height": 10,
    "width": 10,
    "model_version": "3",
}


class Segmentation(BaseModel):
    """What was found on a frame."""

    model_config = ConfigDict(json_schema_extra={"example": _EXAMPLE})

    image: str = Field(description="file name, as uploaded")
    rle_mask: str = Field(description="run lengths, 'start length ...', down the columns from 1; empty: no nerve")
    area: int = Field(description="pixels of the mask")
    area_mm2: float | None = Field(description="area of the mask in mm²; null: no spacing was given")
    spacing_mm: tuple[float, float] | None = Field(description="height and width of a pixel in mm, as given; or null")
    confidence: float | None = Field(description="mean probability within the mask; null: no nerve")
    atypicality: float | None = Field(
        description="how unlike the training masks this one is, in [0, 1]; above 0.5, it is more atypical than 95 % of "
        "them; null: the version predates this field"
    )
    assessment: Kind = Field(
        description="typical, atypical (above 0.5) or empty (no nerve); unknown: the version predates atypicality"
    )
    message: str = Field(description="the assessment as a sentence for people, with what to do")
    height: int = Field(description="height of the frame in pixels")
    width: int = Field(description="width of the frame in pixels")
    model_version: str = Field(description="version of the model that segmented the frame")
    frame_png: str = Field("", description="only for layers: the frame as it was read, a grey PNG in base64")
    mask_png: str = Field("", description="only for layers: the mask, a PNG of 0 and 255 in base64")


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
        "pages or more than 8 bits per sample; or the spacing is none.",
        429: "Too many frames are waiting; Retry-After says when to try again.",
        503: "No version is loaded yet, or the frame was not segmented in time.",
    }.items()
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What was found, or a PNG at the frame's size: the mask, 0 and 255, or the frame with its "
        "outline. A PNG comes with X-Model-Version, X-Assessment, X-Area, X-Area-Mm2 where a spacing was given, "
        "X-Atypicality and, where there is a nerve, X-Confidence.",
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
                        },
                        SPACING: {
                            "type": "string",
                            "description": "optional, for areas in mm²: mm per pixel, one number, or the height and "
                            "the width of a pixel with a space between them; what the file says is not used",
                            "example": "0.08 0.1",
                        },
                    },
                }
            }
        },
    },
    "x-codeSamples": samples(SEGMENT),
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
    async def segment(request: Request, format: Annotated[Format, Query(description=_FORMATS)] = "json") -> Response:
        """Find the nerve in a frame."""
        with queue.place():
            upload = await read_form(request, settings.predictor_upload_mb * 2**20, settings.predictor_timeout)
            work = partial(_segment, follower, upload, format)
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


def _segment(follower: Follower, upload: Upload, format: Format) -> Response:
    """The response to an uploaded file, from the version that is loaded when its turn comes."""
    try:
        frame, _ = decode_grey(upload.content)
    except UnfitImageError as error:
        status = 413 if error.kind == "too large" else 422
        raise HTTPException(status, f"The file {error}.") from None
    champion = _loaded(follower)
    probability = champion.scorer.probability(frame)
    mask = champion.scorer.mask(probability)
    atypicality = champion.scorer.atypicality(mask)
    assessment = assess(mask, atypicality, champion.scorer.spec.plausibility)
    found = row(upload.name, probability, mask, atypicality, champion.version) | {
        "area_mm2": upload.spacing and upload.spacing.area(int(mask.sum())),
        "spacing_mm": upload.spacing,
        "assessment": assessment.kind,
        "message": assessment.message,
    }
    headers = {"Cache-Control": "no-store"}
    if format == "layers":
        pngs = {"frame_png": pictures.frame_png(frame), "mask_png": pictures.mask_png(mask)}
        found |= {name: b64encode(png).decode() for name, png in pngs.items()}
    if format in ("json", "layers"):
        return JSONResponse(found, headers=headers)
    headers |= {
        "X-Model-Version": champion.version,
        "X-Assessment": assessment.kind,
        "X-Area": str(found["area"]),
    }
    if found["area_mm2"] is not None:
        headers["X-Area-Mm2"] = f"{found['area_mm2']:.6g}"
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
