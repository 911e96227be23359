"""What we ship to run it with: containers with few rights, secrets in files, libraries above their known holes."""

import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.tertulia.commands import ROOT

OURS = ("server-1", "server-2", "migrate")
FLOORS = {
    "strawberry-graphql": (0, 341, 2),
    "graphql-core": (3, 3, 2),
    "pyjwt": (2, 15),
    "uvicorn": (0, 52, 1),
    "starlette": (1, 0),
}
"""The first versions without the holes that we know of."""


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_every_container_has_a_read_only_file_system_and_gains_no_rights(compose: Any) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert "no-new-privileges:true" in service["security_opt"]
        assert "privileged" not in service


@pytest.mark.parametrize("name", OURS)
def test_ours_have_no_capabilities_accounts_and_secrets_in_files(compose: Any, name: str) -> None:
    service = compose["services"][name]
    environment = service["environment"]
    assert service["cap_drop"] == ["ALL"]
    assert (environment["TERTULIA_AUTH"], environment["TERTULIA_ALLOW_ANONYMOUS"]) == ("password", "false")
    files = {value for variable, value in environment.items() if variable.endswith("_FILE")}
    assert files == {f"/run/secrets/{secret}" for secret in service["secrets"]}


def test_no_secret_stands_in_compose_yaml(compose: Any) -> None:
    assert all(definition.keys() == {"file"} for definition in compose["secrets"].values())
    for service in compose["services"].values():
        environment = service.get("environment", {})
        values = [value for name, value in environment.items() if re.search("PASSWORD|KEY|TOKEN|URL", name)]
        assert all(value == "" or value.startswith("/run/secrets/") for value in values)


def test_only_the_proxy_is_published_and_only_to_this_machine(compose: Any) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert list(published) == ["proxy"]
    assert all(port.startswith("127.0.0.1:") for port in published["proxy"])


def test_the_servers_trust_the_proxy_alone(compose: Any) -> None:
    address = compose["services"]["proxy"]["networks"]["default"]["ipv4_address"]
    assert all(compose["services"][name]["environment"]["TERTULIA_TRUSTED_PROXIES"] == address for name in OURS)


def test_the_secrets_that_are_made_are_those_of_compose_closed_to_others_and_kept(compose: Any, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "secrets.sh", tmp_path / "scripts")
    subprocess.run(["sh", script], check=True)
    folder = tmp_path / "secrets"
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert made.keys() == compose["secrets"].keys()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in folder.iterdir())
    assert made["postgres_password"].strip() in made["database_url"]
    subprocess.run(["sh", script], check=True)
    assert made == {path.name: path.read_text() for path in folder.iterdir()}


def test_neither_git_nor_the_image_gets_the_secrets() -> None:
    assert {".env", "secrets/"} <= set((ROOT / ".gitignore").read_text().splitlines())
    assert {".env", "secrets", ".git"} <= set((ROOT / ".dockerignore").read_text().splitlines())


def test_the_image_runs_without_rights_and_without_a_shell() -> None:
    last = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert "\nUSER tertulia\n" in last
    assert re.findall(r"^ *CMD (.)", last, re.MULTILINE) == ["[", "["]


@pytest.mark.parametrize("name", FLOORS)
def test_what_is_locked_is_above_its_known_holes(name: str) -> None:
    found = re.search(rf"^{name}==([\d.]+)", (ROOT / "requirements" / "runtime.txt").read_text(), re.MULTILINE)
    assert found is not None
    assert tuple(map(int, found[1].split("."))) >= FLOORS[name]
