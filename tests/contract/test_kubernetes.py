"""The files in kubernetes/: valid by Kubernetes' own schemas, and in agreement with the team stack and the code."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from configobj import ConfigObj
from dotenv import dotenv_values
from ruamel.yaml import YAML

from nerveseg.settings import Settings
from workspace import ROOT

FOLDER = ROOT / "kubernetes"
VERSIONS = ("1.29", "1.37")  # the oldest that we support, and the newest whose schema is installed
READER = YAML(typ="safe", pure=True)
KUSTOMIZATION = READER.load(FOLDER / "kustomization.yaml")
SETTINGS = dotenv_values(FOLDER / "settings.env")
FLOWS, PREDICTOR = (dotenv_values(FOLDER / f"{name}.env.example") for name in ("flows", "predictor"))
TEMPLATE = json.loads((FOLDER / "job.json").read_text())


def manifests() -> Iterator[dict[str, Any]]:
    files = [FOLDER / name for name in KUSTOMIZATION["resources"]] + [FOLDER / "autoscaling/autoscaler.yaml"]
    for file in files:
        yield from READER.load_all(file)


MANIFESTS = {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in manifests()}


def job(**variables: Any) -> dict[str, Any]:
    """The job of a flow run, as a worker makes it from the template and the variables of a deployment."""
    from prefect.utilities.templating import apply_values

    properties = TEMPLATE["variables"]["properties"]
    defaults = {name: schema["default"] for name, schema in properties.items() if "default" in schema}
    prefect = {"name": "run", "command": ["prefect", "flow-run", "execute"], "labels": {"a": "b"}, "annotations": {}}
    values = defaults | prefect | {"env": [{"name": "PREFECT__FLOW_RUN_ID", "value": "1"}]} | variables
    made: dict[str, Any] = apply_values(TEMPLATE["job_configuration"]["job_manifest"], values, remove_notset=True)
    return made


def pods() -> dict[str, dict[str, Any]]:
    found = {name: one["spec"]["template"]["spec"] for name, one in MANIFESTS.items() if name.startswith("Deployment/")}
    return found | {"a flow run": job()["spec"]["template"]["spec"]}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def names(container: dict[str, Any]) -> set[str]:
    """The environment variables that a container gets."""
    sources = {"nerveseg-settings": SETTINGS, "nerveseg-flows": FLOWS, "nerveseg-predictor": PREDICTOR}
    found = {variable["name"] for variable in container.get("env", [])}
    for source in container.get("envFrom", []):
        (reference,) = source.values()
        found |= set(sources[reference["name"]])
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_valid(version: str) -> None:
    for manifest in MANIFESTS.values():
        kubernetes_validate.validate(manifest, version, strict=True)
    for made in (job(), job(gpus=1)):
        for name in ("parallelism", "completions"):  # Prefect's worker insists on them in this place
            del made["spec"]["template"]["spec"][name]
        kubernetes_validate.validate(made, version, strict=True)


def test_what_kustomize_renders_is_valid(tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl: only what it renders from is checked")
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    text = (tmp_path / "kubernetes/kustomization.yaml").read_text()
    assert "# components: [autoscaling]" in text
    (tmp_path / "kubernetes/kustomization.yaml").write_text(text.replace("# components:", "components:"))
    rendered = subprocess.run((kubectl, "kustomize", tmp_path / "kubernetes"), check=True, capture_output=True).stdout
    found = list(READER.load_all(rendered))
    for manifest in found:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == KUSTOMIZATION["namespace"]
    kinds = {f"{one['kind']}/{one['metadata']['name']}": one for one in found}
    assert {name for name in kinds if not name.startswith("ConfigMap/")} == set(MANIFESTS)
    assert json.loads(kinds["ConfigMap/nerveseg-job"]["data"]["job.json"]) == TEMPLATE
    assert kinds["ConfigMap/nerveseg-settings"]["data"] == SETTINGS
    images = {
        container["image"]
        for name in kinds
        if name.startswith("Deployment/")
        for container in containers(kinds[name]["spec"]["template"]["spec"])
    }
    assert TEMPLATE["variables"]["properties"]["image"]["default"] in images, "one image for flow runs and predictor"
    assert "replicas" not in kinds["Deployment/nerveseg-predictor"]["spec"], "or each apply would undo the scaling"


@pytest.mark.parametrize("name", pods())
def test_pods_have_no_privileges_and_bounded_memory(name: str) -> None:
    pod = pods()[name]
    assert pod["securityContext"]["runAsUser"] == 10001, "the image's user"
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(pod):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
    account = MANIFESTS[f"ServiceAccount/{pod['serviceAccountName']}"]
    needs_token = "worker" in name
    assert account.get("automountServiceAccountToken", True) == needs_token, "only the worker talks to the cluster"


def test_what_pods_refer_to_is_there() -> None:
    made = {f"ConfigMap/{one['name']}" for one in KUSTOMIZATION["configMapGenerator"]} | set(MANIFESTS)
    made |= {"Secret/nerveseg-flows", "Secret/nerveseg-predictor"}
    for pod in pods().values():
        for volume in pod["volumes"]:
            if "configMap" in volume:
                assert f"ConfigMap/{volume['configMap']['name']}" in made
            if "persistentVolumeClaim" in volume:
                assert f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}" in made
        for container in containers(pod):
            for source in container["envFrom"]:
                ((kind, reference),) = source.items()
                assert f"{'ConfigMap' if kind == 'configMapRef' else 'Secret'}/{reference['name']}" in made
    role = MANIFESTS["Role/nerveseg-worker"]["rules"]
    assert {verb for rule in role for verb in rule["verbs"]} <= {"create", "delete", "get", "list", "watch"}
    assert {resource for rule in role for resource in rule["resources"]} == {"jobs", "pods", "pods/log"}


def test_flow_runs_and_the_predictor_get_what_they_get_in_the_team_stack() -> None:
    services = READER.load(ROOT / "docker-compose.yml")["services"]
    (run,) = pods()["a flow run"]["containers"]
    its_process_alone = {"S3_BUCKET", "TMPDIR", "PREFECT_WORKER_WEBSERVER_HOST", "PREFECT_WORKER_WEBSERVER_PORT"}
    assert set(services["worker"]["environment"]) - its_process_alone <= names(run)
    (predictor,) = pods()["Deployment/nerveseg-predictor"]["containers"]
    assert set(services["predictor"]["environment"]) <= names(predictor)
    assert set(services["deployments"]["environment"]) - {"NERVESEG_NOTIFY"} <= names(
        pods()["Deployment/nerveseg-worker"]["initContainers"][1]
    )
    ours = {name for source in (SETTINGS, FLOWS, PREDICTOR) for name in source if name.startswith("NERVESEG_")}
    assert ours <= {f"NERVESEG_{field}".upper() for field in Settings.model_fields}, "unknown ones stop every process"


def test_dvc_finds_its_cache_on_the_volume_and_its_remote_in_the_bucket() -> None:
    (run,) = pods()["a flow run"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in run["volumeMounts"]}
    assert mounts["dvc"] == SETTINGS["DVC_GLOBAL_CONFIG_DIR"]
    config = ConfigObj(str(FOLDER / "dvc.config"), list_values=False)
    shared = (config["cache"]["dir"], SETTINGS["NERVESEG_CHECKPOINTS"], SETTINGS["HF_HOME"])
    assert all(str(path).startswith(f"{mounts['shared']}/") for path in shared)
    assert config[f'remote "{config["core"]["remote"]}"']["url"] == f"{SETTINGS['NERVESEG_STORAGE']}/dvc"
    assert str(SETTINGS["DVC_SITE_CACHE_DIR"]).startswith(f"{mounts['tmp']}/"), "all else is read-only"


def test_only_what_is_asked_for_gets_a_gpu() -> None:
    def limits(**variables: Any) -> dict[str, Any]:
        found: dict[str, Any] = job(**variables)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        return found

    assert limits() == {"memory": "12Gi"}
    assert limits(gpus=2) == {"memory": "12Gi", "nvidia.com/gpu": 2}


def test_the_predictor_is_ready_when_it_has_a_model_and_ends_when_it_has_answered() -> None:
    (predictor,) = pods()["Deployment/nerveseg-predictor"]["containers"]
    probes = {kind: predictor[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert probes == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    longest = 2 * Settings.model_fields["predictor_timeout"].default + 1
    pod = pods()["Deployment/nerveseg-predictor"]
    pause = int(predictor["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + longest, "requests under way are answered"
    (service,) = (one for name, one in MANIFESTS.items() if name.startswith("Service/"))
    assert (
        service["spec"]["selector"].items()
        <= MANIFESTS["Deployment/nerveseg-predictor"]["spec"]["template"]["metadata"]["labels"].items()
    )


def test_the_worker_has_the_version_of_prefect_that_is_locked() -> None:
    (locked,) = re.findall(r"^prefect==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    (python,) = re.findall(r"^FROM python:(\d+\.\d+)\S* AS build$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    pod = pods()["Deployment/nerveseg-worker"]
    images = {container["image"] for container in containers(pod)} - {"nerveseg"}
    assert images == {f"prefecthq/prefect:{locked}-python{python}-kubernetes"}


def test_there_is_no_password() -> None:
    for source in (FLOWS, PREDICTOR):
        secret = {name: value for name, value in source.items() if re.search("KEY|PASSWORD|AUTH", name)}
        assert secret
        assert all(not str(value).partition(":")[2] and (":" in str(value) or not value) for value in secret.values())
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"/kubernetes/flows.env", "/kubernetes/predictor.env"} <= set(ignored)
