"""docker-compose.yml and related files: what a platform engineer would check before accepting them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stack.environment import fill
from stack.native.compose import interpolate
from workspace import ROOT

EXAMPLE = (ROOT / ".env.example").read_text()
FILES = [ROOT / "docker-compose.yml", ROOT / "docker-compose.gpu.yml"]


def variables(text: str) -> dict[str, str]:
    """The variables in the text of a .env file."""
    found = re.findall(r"^(\w+)=(\S*)", text, re.MULTILINE)
    return dict(found)


def compose(**more: str) -> dict[str, Any]:
    """docker-compose.yml with the variables of a fresh .env and `more`."""
    content = YAML(typ="safe", pure=True).load(FILES[0])
    filled: dict[str, Any] = interpolate(content, variables(fill(EXAMPLE)) | more)
    return filled


SERVICES = compose()["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
SERVERS = {name: service for name, service in SERVICES.items() if service["restart"] == "unless-stopped"}


def test_the_files_are_valid_compose_files() -> None:
    command = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *map(str, FILES))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_all_parts_of_the_stack_are_there() -> None:
    wanted = {
        "postgres",
        "s3",
        "bucket",
        "mlflow",
        "accounts",
        "prefect",
        "deployments",
        "worker",
        "predictor",
        "caddy",
    }
    assert wanted <= set(SERVICES)
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("./stack"):
                assert (ROOT / source).exists()


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_memory_is_bounded(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"nerveseg:local|[\w/]+:\d+\.\d+[\w.-]*", service["image"]), "an exact version, no floating tag"
    assert service["mem_limit"]
    assert "no-new-privileges:true" in service.get("security_opt", []) or service["restart"] == "no"


@pytest.mark.parametrize("name", SERVERS)
def test_servers_have_health_checks_and_wait_for_healthy_dependencies(name: str) -> None:
    assert SERVERS[name].get("healthcheck", {}).get("test") or name == "caddy"
    for need, condition in SERVERS[name].get("depends_on", {}).items():
        assert condition["condition"] in ("service_healthy", "service_completed_successfully"), need


@pytest.mark.parametrize("name", OURS)
def test_our_services_have_no_privileges(name: str) -> None:
    service = OURS[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "user" not in service or "backup" in service["profiles"], "the image's user, 10001"
    assert re.search(r"^USER 10001:10001$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_nothing_is_published_beyond_this_host_by_default() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "network_mode" not in FILES[0].read_text()
    opened = compose(BIND="0.0.0.0")["services"]
    assert opened["mlflow"]["ports"][0].startswith("0.0.0.0:")
    assert not {"postgres", "s3", "worker"} & {name for name, service in opened.items() if "ports" in service}


def test_there_is_no_default_password() -> None:
    secret = [name for name, value in variables(EXAMPLE).items() if not value]
    assert len(secret) == 11
    first, second = variables(fill(EXAMPLE)), variables(fill(EXAMPLE))
    assert len({first[name] for name in secret} | {second[name] for name in secret}) == 22, "random each time"
    assert all(len(first[name]) >= 32 for name in secret)
    content = YAML(typ="safe", pure=True).load(FILES[0])
    for name in secret:
        with pytest.raises(Exception, match=f"{name} is not set"):
            interpolate(content, variables(fill(EXAMPLE)) | {name: ""})
    secrets = re.compile(r"\s+\w*(PASSWORD|SECRET|AUTH_STRING|PREDICTOR_AUTH)\w*: ")
    lines = [line for line in FILES[0].read_text().splitlines() if secrets.match(line)]
    assert len(lines) > 10
    assert all(re.search(r"\$\{\w+:\?", line) for line in lines), "required"


def test_env_is_written_once_and_readable_only_by_its_owner(tmp_path: Path) -> None:
    (tmp_path / ".env.example").write_text(EXAMPLE)
    command, environment = (sys.executable, "-m", "stack.environment"), {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    written = (tmp_path / ".env").read_bytes()
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / ".env").read_bytes() == written


def test_nothing_phones_home_and_nothing_is_unpickled() -> None:
    for service in OURS.values():
        environment = service["environment"]
        assert environment["DO_NOT_TRACK"] == environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
        assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_databases_and_accounts_are_separate() -> None:
    environments = {name: service["environment"] for name, service in SERVICES.items()}
    assert environments["mlflow"]["PGUSER"] == "mlflow"
    assert environments["prefect"]["PGUSER"] == "prefect"
    assert environments["mlflow"]["PGPASSWORD"] != environments["prefect"]["PGPASSWORD"]
    assert environments["worker"]["MLFLOW_TRACKING_USERNAME"] == "pipeline", "the worker is not an admin"
    assert not [name for name in environments["worker"] if "ADMIN" in name or name.startswith("PG")]
    assert "--app-name=basic-auth" in SERVICES["mlflow"]["command"]
    assert environments["prefect"]["PREFECT_SERVER_API_AUTH_STRING"]


def test_another_store_can_replace_the_built_in_one() -> None:
    aws = compose(S3_ENDPOINT_URL="", S3_BUCKET="hospital")["services"]
    assert aws["mlflow"]["environment"]["AWS_ENDPOINT_URL"] == "", "AWS itself"
    assert "s3://hospital/delivery" in aws["predictor"]["command"][-1]
    assert aws["bucket"]["depends_on"]["s3"]["required"] is False
    own = compose()["services"]
    assert own["mlflow"]["environment"]["AWS_ENDPOINT_URL"] == "http://s3:8333"


def test_variables_are_filled_in_like_compose() -> None:
    filled = interpolate(
        ["${A}", "${A:-x}", "${EMPTY:-x}", "${EMPTY-x}", "${NO-a${A}b${NO:-c}}", "$$A", "1${A}2${A}3", 5],
        {"A": "1", "EMPTY": ""},
    )
    assert filled == ["1", "1", "x", "", "a1bc", "$A", "11213", 5]
    with pytest.raises(Exception, match=r"NO is not set in \.env: why"):
        interpolate("${NO?why}", {})


def test_dvc_writes_only_where_a_worker_may() -> None:
    writable = [*SERVICES["worker"]["tmpfs"], *(mount.split(":")[1] for mount in SERVICES["worker"]["volumes"])]
    for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "NERVESEG_CHECKPOINTS", "TMPDIR", "HF_HOME"):
        path = SERVICES["worker"]["environment"][name]
        assert any(path.startswith(f"{folder}/") for folder in writable), f"{name}: the rest is read-only"
