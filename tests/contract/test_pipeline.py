"""dvc.yaml against the code: what each stage imports, which parameters it reads, which files it reads and writes."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from nerveseg import paths, tracking
from nerveseg.params import Params

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PIPELINE = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")
STAGES: dict[str, Any] = PIPELINE["stages"]

# Code that carries a result and cannot change it: docs/adr/0003.
CARRIERS = {
    f"src/nerveseg/{name}.py"
    for name in (
        *("arrays", "console", "dvc_lock", "errors", "files", "kept", "legacy", "logged_code", "metric_names"),
        *("mlflow_pages", "package", "params", "paths", "settings", "tracking"),
    )
}
# Files that a stage uses without declaring them, and why.
UNDECLARED = {
    "train": {
        paths.SOURCE_JSON,  # provenance, like the git commit
        paths.DVC_YAML,  # names the code that trains
    },
    "split": {paths.FINDINGS_JSON},  # only where the stage fails, when DVC keeps no outs
    "register": {paths.DVC_LOCK, paths.PARAMS},  # what it records
    "check": {paths.PARAMS},  # declared as parameters
}

# Code that a stage uses without declaring it, and why.
UNDECLARED_CODE = {
    "train": {"src/nerveseg/report/panels.py", "src/nerveseg/model/shape.py"},  # they draw: docs/adr/0031
}
# What users put into the workspace.
GIVEN = {"${data.uri}", "weights", "augmentation"}

# Checks all parameters, whatever they are, before the other stages, which therefore come after its output.
CHECK = "check"
every_stage = pytest.mark.parametrize("name", STAGES)


def stage_file(name: str) -> Path:
    return SOURCE / "nerveseg" / "stages" / f"{name}.py"


def imported_files(file: Path) -> set[Path]:
    """The project's files that `file` imports, anywhere in it; packages' docstring-only `__init__.py` left out."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        candidates = (SOURCE / f"{module.replace('.', '/')}.py" for module in modules)
        found |= {candidate for candidate in candidates if candidate.exists()}
    return found


def all_imports(file: Path) -> set[str]:
    """What `file` needs of the project, itself included, as paths relative to the repository."""
    reached: set[Path] = set()
    frontier = {file}
    while frontier:
        reached |= frontier
        frontier = set().union(*(imported_files(part) for part in frontier)) - reached
    return {part.relative_to(ROOT).as_posix() for part in reached}


def attribute_chains(name: str, root: str) -> set[str]:
    """Every `root.a` or `root.a.b` that the stage's module spells, without the root."""
    text = stage_file(name).read_text()
    return {match.group(1) for match in re.finditer(rf"\b{root}\.(\w+(?:\.\w+)?)", text)}


def code_deps(name: str) -> list[str]:
    return [dep for dep in STAGES[name]["deps"] if dep.startswith("src/")]


def outs(stage: dict[str, Any]) -> list[str]:
    """The outs and metrics of a stage; one with settings of its own is a mapping from its name."""
    return [
        name
        for out in [*stage.get("outs", []), *stage.get("metrics", [])]
        for name in ([out] if isinstance(out, str) else out)
    ]


def declared_files(name: str) -> set[str]:
    stage = STAGES[name]
    return {*outs(stage), *stage["deps"]} - set(code_deps(name))


@every_stage
def test_the_command_is_the_stage(name: str) -> None:
    assert STAGES[name]["cmd"] == f"python -m nerveseg.stages.{name}"
    assert stage_file(name).exists()


@every_stage
def test_deps_name_the_code_that_the_stage_imports(name: str) -> None:
    needed = all_imports(stage_file(name)) - CARRIERS - UNDECLARED_CODE.get(name, set())
    if name == "calibrate":  # logs it with the model
        needed.add(tracking.SERVED_MODEL.relative_to(ROOT).as_posix())
    if name == CHECK:
        needed.add("src/nerveseg/params.py")  # what a parameter may be
    declared = code_deps(name)
    missing = {file for file in needed if not any(file == dep or file.startswith(f"{dep}/") for dep in declared)}
    assert not missing, f"{name} imports {missing}, which dvc.yaml does not name"
    useless = [dep for dep in declared if not any(file == dep or file.startswith(f"{dep}/") for file in needed)]
    assert not useless, f"{name} does not import {useless}"


@pytest.mark.parametrize("name", [name for name in STAGES if name != CHECK])
def test_params_are_those_that_the_stage_reads(name: str) -> None:
    sections = {field: info.alias or field for field, info in Params.model_fields.items()}
    read = set()
    for chain in attribute_chains(name, "params"):
        section, _, key = chain.partition(".")
        if section in sections:
            is_key = key in Params.model_fields[section].annotation.model_fields  # type: ignore[union-attr]
            read.add(f"{sections[section]}.{key}" if is_key else sections[section])
    whole = {entry for entry in read if "." not in entry}
    read = {entry for entry in read if "." not in entry or entry.partition(".")[0] not in whole}
    assert read == set(STAGES[name]["params"])


@every_stage
def test_files_are_those_that_the_stage_spells(name: str) -> None:
    constants = {chain.partition(".")[0] for chain in attribute_chains(name, "paths")}
    spelled = {getattr(paths, constant) for constant in constants} - UNDECLARED.get(name, set())
    declared = declared_files(name) - GIVEN
    if name != CHECK:
        declared -= {paths.CHECKED.as_posix()}
    for folder in (paths.MODELS, paths.REPORTS):  # given to what reads or writes files in it
        if folder in spelled:
            spelled = {path for path in spelled - {folder} if path.parent != folder}
            declared = {file for file in declared if Path(file).parent != folder}
    assert {path.as_posix() for path in spelled} == declared


def test_every_file_that_a_stage_needs_is_another_stages_output() -> None:
    made = {out for stage in STAGES.values() for out in outs(stage)}
    needed = {file for name in STAGES for file in declared_files(name)} - GIVEN
    assert needed <= made


def test_all_parameters_are_checked_before_any_other_stage() -> None:
    assert STAGES[CHECK]["params"] == [{paths.PARAMS.as_posix(): None}], "all of the file"
    first = {name for name in STAGES if name != CHECK and not {*outs_of_others(name)} & declared_files(name)}
    assert first == set(), "these may start before the parameters are checked"


def outs_of_others(name: str) -> set[str]:
    return {out for other, stage in STAGES.items() if other != name for out in outs(stage)}


def test_the_flow_runs_every_stage_in_order() -> None:
    from nerveseg.workspace.dvc import STAGES as FLOW_STAGES

    assert list(FLOW_STAGES) == [name for name in STAGES if name not in (CHECK, "phantom")]
