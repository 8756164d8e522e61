"""The files of the stages, relative to the root of the repository."""

from pathlib import Path

from nerveseg.errors import NervesegError

PARAMS = Path("params.yaml")
PROFILES = Path("profiles")
WEIGHTS = Path("weights")  # encoder weights from the user; DVC watches the folder
AUGMENTATION = Path("augmentation")  # augmentations from the user; DVC watches the folder
LICENSE = Path("LICENSE")
DVC_YAML = Path("dvc.yaml")
DVC_LOCK = Path("dvc.lock")

CHECKED = Path("data/checked")
PHANTOM_ZIP = Path("data/phantom.zip")
DATASET_ZIP = Path("data/raw/dataset.zip")
SOURCE_JSON = Path("data/raw/source.json")
MANIFEST = Path("data/raw/manifest.csv")  # the objects that the dataset zip was made of
PACKED = Path("data/packed")
FINDINGS_JSON = Path("data/findings.json")  # only while errors stop the split stage

MODELS = Path("models")
MODEL_WEIGHTS = MODELS / "model.safetensors"
MODEL_SPEC = MODELS / "model.json"
RUN_JSON = MODELS / "run.json"  # the training: parameters, tags, dataset, and its MLflow run
CALIBRATION_JSON = MODELS / "calibration.json"  # the calibration: parameters, and where MLflow holds the model
CURVE_CSV = MODELS / "curve.csv"
TIMINGS_JSON = MODELS / "timings.json"

CROSSVAL = Path("crossval")  # written by `nerveseg crossval`, not by a stage
COMPARISON = Path("reports/compare")  # written by `nerveseg compare`
TABLES = Path("tables")  # written by `nerveseg table`
SEARCHES = Path("searches")  # written by `nerveseg search`

REPORTS = Path("reports")
FIGURES = REPORTS / "figures"
PANELS = REPORTS / "training"  # what train shows while it goes on
METRICS_JSON = REPORTS / "metrics.json"
SUMMARY_JSON = REPORTS / "summary.json"  # what DVC's tables show of it
PER_IMAGE_CSV = REPORTS / "per_image.csv"
PER_SUBJECT_CSV = REPORTS / "per_subject.csv"
PREDICTIONS = REPORTS / "predictions.parquet"
CURVES = REPORTS / "curves"
CONFLICTS_CSV = REPORTS / "conflicts.csv"
EVALUATION_JSON = REPORTS / "evaluation.json"  # the code that evaluated
CARD_JSON = REPORTS / "card.json"  # the next two are generated from it
CARD = REPORTS / "card.md"
METADATA_JSON = REPORTS / "metadata.json"
REFERENCE_JSON = REPORTS / "reference.json"
SMOKE = REPORTS / "smoke.npz"
CHAMPION_SCORES = REPORTS / "champion.parquet"  # what the gate's champion scored on the same frames
REGISTRATION_JSON = REPORTS / "registration.json"
REPORT = REPORTS / "index.html"
REPORT_FRAMES = REPORTS / "frames"  # that are too many for the page


def require_root() -> None:
    """Raises NervesegError if the working directory is not the root of the repository; names the root above it."""
    here = Path.cwd()
    if not DVC_YAML.exists():
        root = next((folder for folder in here.parents if (folder / DVC_YAML).exists()), None)
        raise NervesegError(
            f"There is no {DVC_YAML} in {here}: "
            + (f"run from the root of the repository, `cd {root}`." if root else "run from the root of the repository.")
        )
