"""The directions of imports that the design draws: flows, then stages, then the domain."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "nerveseg"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOMAIN = ("data", "phantom", "model", "training", "evaluation", "report", "modelcard", "prediction", "registry")
COMMANDS = {"prediction/files.py", "registry/verify.py"}  # what `nerveseg predict` and `nerveseg verify` call


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def users_of(library: str) -> set[str]:
    return {
        file.relative_to(PACKAGE).as_posix()
        for file in MODULES
        if any(name == library or name.startswith(f"{library}.") for name in imports(file))
    }


def test_the_domain_knows_nothing_of_stages_tracking_or_command_line() -> None:
    for forbidden in ("nerveseg.stages", "nerveseg.tracking", "nerveseg.cli", "nerveseg.profiles", "typer"):
        assert not {user for user in users_of(forbidden) - COMMANDS if user.startswith(DOMAIN)}, forbidden


def test_only_tracking_and_registry_import_mlflow() -> None:
    assert {user for user in users_of("mlflow") if not user.startswith("registry/")} == {"tracking.py"}


def test_only_augment_imports_albumentations() -> None:
    assert users_of("albumentations") == {"data/augment.py"}


def test_nothing_imports_dvc_or_prefect() -> None:
    assert not users_of("dvc") | users_of("prefect")


def test_only_serving_imports_a_web_server() -> None:
    for library in ("fastapi", "starlette", "uvicorn", "prometheus_client", "prometheus_fastapi_instrumentator"):
        assert {user for user in users_of(library) if not user.startswith("serving/")} == set(), library


def test_only_the_command_line_imports_serving() -> None:
    assert {user for user in users_of("nerveseg.serving") if not user.startswith("serving/")} == {"cli.py"}


def test_stages_do_not_import_one_another() -> None:
    stages = {file.stem for file in (PACKAGE / "stages").glob("*.py")} - {"__init__"}
    for stage in stages:
        assert not imports(PACKAGE / "stages" / f"{stage}.py") & {f"nerveseg.stages.{other}" for other in stages}


@pytest.mark.parametrize("stage", ["phantom", "download", "split", "register"])
def test_stages_without_tensors_start_without_torch(stage: str) -> None:
    loaded = modules_after(f"nerveseg.stages.{stage}")
    assert not loaded & {"torch", "lightning", "albumentations", "segmentation_models_pytorch"}


def test_the_predictor_needs_no_torch_mlflow_or_prefect() -> None:
    assert not modules_after("nerveseg.serving.server") & {
        *("torch", "lightning", "mlflow", "prefect", "dvc", "pandas"),
    }


def test_the_command_line_starts_light() -> None:
    assert not modules_after("nerveseg.cli") & {"torch", "mlflow", "pandas", "numpy", "boto3", "fastapi"}


def modules_after(module: str) -> set[str]:
    """What a fresh interpreter has loaded after importing `module`."""
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())
