"""The CI files for GitHub and GitLab: valid by the published schemas, and the same run of .ci/run."""

import os
import re
import subprocess
import sys
from typing import Any

import pytest
from ruamel.yaml import YAML

from workspace import ROOT

GITHUB, GITLAB = ROOT / ".github/workflows/ci.yml", ROOT / ".gitlab-ci.yml"
YAML_1_2 = YAML(typ="safe", pure=True)  # in which `on` is no boolean


def github() -> dict[str, Any]:
    found: dict[str, Any] = YAML_1_2.load(GITHUB)["jobs"]["ci"]
    return found


def gitlab() -> dict[str, Any]:
    found: dict[str, Any] = YAML_1_2.load(GITLAB)["ci"]
    return found


@pytest.mark.parametrize(("schema", "file"), [("github-workflows", GITHUB), ("gitlab-ci", GITLAB)])
def test_the_files_are_valid(schema: str, file: os.PathLike[str]) -> None:
    command = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(file))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_both_run_ci_run_in_one_image_with_a_time_limit() -> None:
    assert github()["steps"][-1]["run"] == ".ci/run"
    assert gitlab()["script"] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert github()["container"]["image"] == gitlab()["image"]
    (python,) = re.findall(
        r"^FROM (python:[\d.]+)-slim-(\w+) AS build$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    assert gitlab()["image"] == "-".join(python), "the Python that is deployed, on the same Debian"
    assert github()["timeout-minutes"] == 60
    assert gitlab()["timeout"] == "1h"


def test_packages_are_cached_by_the_lock_file_where_git_ignores_them() -> None:
    (cache,) = (step["with"] for step in github()["steps"] if step.get("uses", "").startswith("actions/cache@"))
    assert cache["path"] in gitlab()["cache"]["paths"]
    assert "requirements.lock" in cache["key"]
    assert gitlab()["cache"]["key"]["files"] == ["requirements.lock"]
    folders = (github()["env"]["UV_CACHE_DIR"], gitlab()["variables"]["UV_CACHE_DIR"])
    assert all(folder.endswith("/" + cache["path"]) for folder in folders)
    assert "/.cache/" in (ROOT / ".gitignore").read_text().splitlines()


def test_actions_are_pinned_by_commit_and_nothing_needs_a_secret() -> None:
    text = GITHUB.read_text()
    uses = re.findall(r"uses: (.+)", text)
    assert len(uses) == 2
    assert all(re.fullmatch(r"actions/\w+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use) for use in uses)
    assert YAML_1_2.load(GITHUB)["permissions"] == {"contents": "read"}
    assert "secrets" not in text + GITLAB.read_text()
