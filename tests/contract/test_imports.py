"""The allowed directions of imports: from flows to stages to the domain."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "nerveseg"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOMAIN = ("data", "phantom", "model", "training", "evaluation", "report", "modelcard", "prediction", "registry")
COMMANDS = {"prediction/files.py", "registry/verify.py"}  # what `nerveseg predict` and `nerveseg verify` call
STAGES = sorted(file.stem for file in (PACKAGE / "stages").glob("[!_]*.py"))
# Only some settings, layouts or one function need them.
SELDOM = {"boto3", "sklearn", "onnx", "openvino", "pycocotools", "pydicom", "nibabel", "nrrd"}
TENSORS = {"torch", "torchvision", "lightning", "albumentations", "segmentation_models_pytorch"}
# What our own code must not load when a stage starts; only train trains, and it draws nothing.
LEFT_OUT = {stage: SELDOM | {"lightning", "albumentations"} for stage in STAGES}
LEFT_OUT |= {
    "train": SELDOM | {"matplotlib", "scipy", "jinja2"},
    "register": SELDOM | TENSORS,
    "split": SELDOM | TENSORS | {"matplotlib", "mlflow"},
    "phantom": SELDOM | TENSORS | {"matplotlib", "mlflow", "scipy"},
    "check": SELDOM | TENSORS | {"matplotlib", "mlflow", "scipy", "pandas", "cv2", "numpy"},
    "download": SELDOM | TENSORS | {"matplotlib", "mlflow", "scipy", "pandas", "cv2"},
}


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def imports(file: Path) -> set[str]:
    nodes = ast.walk(parsed(file))
    return {name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for name in imports_of(node)}


def imports_of(node: ast.Import | ast.ImportFrom) -> set[str]:
    names = {alias.name for alias in node.names}
    if isinstance(node, ast.Import):
        return names
    return {node.module, *(f"{node.module}.{name}" for name in names)} if node.module else set()


def imports_at_start(body: list[ast.stmt]) -> Iterator[str]:
    """What runs at import: not what stands in functions or is for type checkers alone."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports_of(node)
        elif isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
            yield from imports_at_start([*node.body, *node.orelse])


def libraries_at_start(module: str) -> set[str]:
    """The libraries that a module of ours and those of ours that it imports load, without starting a process."""
    found: set[str] = set()
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        place = PACKAGE.parent / name.replace(".", "/")
        file = next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()), None)
        if name in seen or file is None:
            continue
        seen.add(name)
        wanted = set(imports_at_start(parsed(file).body))
        found |= {each.split(".")[0] for each in wanted}
        waiting += [*wanted, name.rpartition(".")[0]]
    return found


def users_of(library: str) -> set[str]:
    return {
        file.relative_to(PACKAGE).as_posix()
        for file in MODULES
        if any(name == library or name.startswith(f"{library}.") for name in imports(file))
    }


def test_the_domain_does_not_import_stages_tracking_or_command_line() -> None:
    for forbidden in ("nerveseg.stages", "nerveseg.tracking", "nerveseg.cli", "nerveseg.profiles", "typer"):
        assert not {user for user in users_of(forbidden) - COMMANDS if user.startswith(DOMAIN)}, forbidden


def test_only_tracking_and_registry_import_mlflow() -> None:
    assert {user for user in users_of("mlflow") if not user.startswith("registry/")} == {"tracking.py"}


def test_only_augment_imports_albumentations() -> None:
    assert users_of("albumentations") == {"data/augment.py"}


def test_only_trials_import_optuna() -> None:
    assert {user.partition("/")[0] for user in users_of("optuna")} == {"trials"}


def test_only_s3_imports_boto3() -> None:
    for library in ("boto3", "botocore"):
        assert users_of(library) == {"s3.py"}, library
    stack = (PACKAGE.parents[1] / "stack").rglob("*.py")
    assert not [file.name for file in stack if {"boto3", "botocore"} & {name.split(".")[0] for name in imports(file)}]


def test_only_outlines_import_pycocotools() -> None:
    assert users_of("pycocotools") == {"data/outlines.py"}


def test_nothing_imports_dvc_or_prefect() -> None:
    assert not users_of("dvc") | users_of("prefect")


def test_only_serving_imports_a_web_server() -> None:
    for library in ("fastapi", "starlette", "uvicorn", "prometheus_client", "prometheus_fastapi_instrumentator"):
        assert {user for user in users_of(library) if not user.startswith("serving/")} == set(), library


def test_only_the_command_line_imports_serving() -> None:
    assert {user for user in users_of("nerveseg.serving") if not user.startswith("serving/")} == {"cli.py"}


def test_stages_do_not_import_one_another() -> None:
    for stage in STAGES:
        assert not imports(PACKAGE / "stages" / f"{stage}.py") & {f"nerveseg.stages.{other}" for other in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_starts_without_heavy_libraries_it_seldom_needs(stage: str) -> None:
    assert not libraries_at_start(f"nerveseg.stages.{stage}") & LEFT_OUT[stage]


@pytest.mark.parametrize("stage", ["phantom", "download", "split", "register"])
def test_stages_without_tensors_start_without_torch(stage: str) -> None:
    loaded = modules_after(f"nerveseg.stages.{stage}")
    assert not loaded & {"torch", "lightning", "albumentations", "segmentation_models_pytorch", "boto3", "botocore"}


def test_the_predictor_needs_no_torch_mlflow_or_prefect() -> None:
    assert not modules_after("nerveseg.serving.server") & {
        *("torch", "lightning", "mlflow", "prefect", "dvc", "pandas"),
    }


def test_the_command_line_starts_light() -> None:
    assert not modules_after("nerveseg.cli") & {"torch", "mlflow", "pandas", "numpy", "boto3", "fastapi", "optuna"}


def modules_after(module: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after importing `module`."""
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())
