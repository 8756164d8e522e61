"""Makes an archive like `registered_by_0_1.tar.xz`: a small version as a release of nerveseg registers and delivers it.

In a checkout of that release, with its environment:

    PYTHONPATH=.:tests python /elsewhere/make_former_version.py /elsewhere/registered_by_0_1.tar.xz

The dataset is the phantom. The archive holds

    mlflow.sql      the MLflow store as SQL; version 1 is `champion` and delivered
    project/        mlruns, data, models, reports, dvc.lock and delivery, as the pipeline and `deliver` left them

Where MLflow wrote the folder that all this was made in, FOLDER stands instead.
"""

import sqlite3
import sys
import tarfile
import tempfile
from pathlib import Path

from workspace import Workspace

FOLDER = "/FOLDER"
PROMOTE = "import mlflow; mlflow.MlflowClient().set_registered_model_alias('nerve-segmentation', 'champion', '1')"
KEPT = ("mlruns", "data/packed", "data/raw/source.json", "models", "reports", "dvc.lock", "delivery")
SMALL = {
    "model.architecture": "Linknet",  # of this encoder 0.4 MB of weights; a U-Net has 6 MB at least
    "model.encoder": "tu-test_efficientnet",
    "train.epochs": 30,
    "phantom.frames_per_subject": 6,
    "phantom.height": 72,
    "phantom.width": 96,
    "register.gate": "report",
}
LEFT_OUT = ("figures", "curves.png", "index.html", "checkpoints")  # nothing reads them back


def make(folder: Path) -> None:
    """Trains, registers, promotes and delivers below `folder`."""
    variables = {
        "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",
        "PREFECT_HOME": str(folder / "prefect"),
        # MLflow records who trains, and where the code lies.
        "LOGNAME": "nerveseg",
        "PYTHONPATH": str(folder / "project" / "src"),
        # 0.1 would compute in bfloat16 where the processor can, so that its masks would depend on the machine.
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
    }
    workspace = Workspace(folder / "project", variables)
    workspace.set(**SMALL)
    workspace.commit()
    workspace.run("dvc", "repro")
    workspace.run("python", "-c", PROMOTE)
    workspace.run("python", "-m", "flows.deliver")


def pack(folder: Path, archive: Path) -> None:
    """Writes what `make` made below `folder`, without its path."""
    with sqlite3.connect(folder / "project" / "mlflow.db") as store:
        (folder / "mlflow.sql").write_text("\n".join(store.iterdump()).replace(str(folder), FOLDER) + "\n")
    for path in (folder / "project" / "mlruns").rglob("MLmodel"):
        path.write_text(path.read_text().replace(str(folder), FOLDER))

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if Path(entry.name).name in LEFT_OUT:
            return None
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    with tarfile.open(archive, "w:xz", preset=9, dereference=True) as file:
        for name in ("mlflow.sql", *(f"project/{part}" for part in KEPT)):
            file.add(folder / name, name, filter=plain)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        make(Path(name).resolve())
        pack(Path(name).resolve(), Path(sys.argv[1]).resolve())
