"""The typed environment: where things live and what they run on. Nothing here makes a stage stale."""

import difflib
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from nerveseg.errors import NervesegError

_PREFIX = "NERVESEG_"
_KEY_LENGTH = 16  # characters


def _user_and_password(credentials: SecretStr) -> SecretStr:
    user, _, password = credentials.get_secret_value().partition(":")
    if not user or not password:
        raise ValueError("use user:password")
    return credentials


def _hard_to_guess(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value()) < _KEY_LENGTH:
        raise ValueError(f"use at least {_KEY_LENGTH} characters, such as the output of `openssl rand -hex 32`")
    return key


class Settings(BaseSettings):
    """Environment variables of the project; AWS's own (`AWS_*`) are read by boto3 itself."""

    # Compose cannot omit a variable, so an empty one counts as unset.
    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, env_ignore_empty=True)

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="device for training and evaluation"
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="processes that augment frames; unset: none on a CPU, otherwise the CPUs minus one, at most 8",
    )
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=1, description="processes that train on each node, one per GPU; auto: as many as it has GPUs"
    )
    nodes: int = Field(default=1, ge=1, description="nodes that train together, each with NERVESEG_DEVICES processes")
    checkpoints: Path = Field(
        default=Path("checkpoints"),
        description="where interrupted and unrecorded trainings are kept; clones may share it",
    )
    checkpoint_seconds: float = Field(
        default=300, ge=0, description="age of a checkpoint at which a training writes the next one within an epoch"
    )
    experiment: str = Field(default="nerveseg", description="MLflow experiment for the runs")
    tracking_uri: str = Field(default="sqlite:///mlflow.db", validation_alias="MLFLOW_TRACKING_URI")
    repository: str | None = Field(
        default=None, description="git URL that every deployed flow run clones; unset: runs use the checkout"
    )
    storage: str | None = Field(
        default=None,
        pattern="^s3://.+|^/",
        description="s3://bucket/prefix or absolute folder: base of a relative delivery.uri and predict.output",
    )
    task_runner: Annotated[str, Field(pattern=r"^(threads|dask|(tcp|tls)://\S+)$")] = Field(
        default="threads",
        description="how shards are predicted: threads, dask (a local cluster), or tcp://... of a scheduler",
    )
    notify: SecretStr | None = Field(
        default=None, description="Apprise URL (slack://, mailtos://, json://, ...) to notify of failures and refusals"
    )
    signing_key: Path | None = Field(
        default=None, description="PEM file of the Ed25519 private key that `deliver` signs bundles with"
    )
    verify_key: Path | None = Field(
        default=None, description="PEM file of the public key that a bundle must be signed with, or it is not used"
    )
    identity_key: Annotated[SecretStr, AfterValidator(_hard_to_guess)] | None = Field(
        default=None, description="secret by which the patients of DICOM files are replaced by hashes; keep it"
    )
    s3_anonymous: bool = Field(default=False, description="do not sign S3 requests for the dataset, for public buckets")
    predictor_auth: Annotated[SecretStr, AfterValidator(_user_and_password)] | None = Field(
        default=None, description="user:password for the predictor; unset: it listens on loopback addresses only"
    )
    predictor_upload_mb: int = Field(default=32, ge=1, le=1024, description="largest upload in MiB")
    predictor_queue: int = Field(default=32, ge=1, le=10_000, description="maximum number of requests in progress")
    predictor_timeout: float = Field(
        default=30, gt=0, le=3600, description="seconds allowed for the upload, and again for waiting and scoring"
    )
    predictor_poll: float = Field(default=5, ge=0.1, le=3600, description="seconds between checks for a new delivery")


@cache
def settings() -> Settings:
    """The environment of this process, read once.

    Raises:
        NervesegError: a variable has an invalid value, or an unknown one starts with NERVESEG_.
    """
    known = {f"{_PREFIX}{name}".upper() for name, field in Settings.model_fields.items() if not field.validation_alias}
    for name in os.environ:
        if name.startswith(_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise NervesegError(f"{name}: no such setting{f'; did you mean {near[0]}?' if near else ''}")
    try:
        return Settings()
    except ValidationError as error:
        wrong = ((str(detail["loc"][0]), detail["msg"]) for detail in error.errors())
        lines = [f"  {name if name.isupper() else f'{_PREFIX}{name.upper()}'}: {message}" for name, message in wrong]
        raise NervesegError("The environment is invalid:\n" + "\n".join(lines)) from None
