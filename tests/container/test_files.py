"""What the image and the compose file are made of, without an engine."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from docker.sbom import document
from docker.split_requirements import beyond, split
from tests.app.servers import ROOT

FOLDER = ROOT / "docker" / "requirements"
PROJECT = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def plain(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """Name and version of every pin."""
    return {plain(name): pin for name, pin in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text)}


LOCKED = {path.name: path.read_text() for path in FOLDER.glob("*.txt")}


def test_every_package_has_hashes() -> None:
    """And nothing else stands there."""
    assert set(LOCKED) == {"base.txt", "torch.txt", "cuda.txt", "ray.txt", "redis.txt"}
    for text in LOCKED.values():
        first, *lines = text.splitlines()
        assert first.startswith("#")
        entries = re.split(r"(?m)^(?=\S)", "\n".join(lines))[1:]
        assert entries
        for entry in entries:
            head, *hashes = entry.split("\\\n")
            assert re.match(r"[\w.-]+==\S+( ; .+)?\s*$", head), head
            assert hashes
            assert all(re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64}\s*", each) for each in hashes), entry


def test_the_pins_are_those_that_were_tested() -> None:
    """`scripts/lock` was run since constraints.txt changed."""
    tested = pins((ROOT / "constraints.txt").read_text())
    locked = pins("".join(LOCKED[f"{name}.txt"] for name in ("base", "torch", "ray", "redis")))
    assert {name: pin for name, pin in locked.items() if tested.get(name, pin) != pin} == {}


def test_nothing_is_missing() -> None:
    """All that the server extra needs, directly or not, on Linux."""
    project = (ROOT / "pyproject.toml").read_text()
    server = re.search(r"(?ms)^server = \[(.*?)^\]", project)
    base = re.search(r"(?m)^dependencies = \[(.*?)\]", project)
    assert server
    assert base
    todo = re.findall(r'"([^"]+)"', base[1] + server[1])
    needed: set[str] = set()
    while todo:
        requirement = Requirement(todo.pop())
        extras = requirement.extras or {""}
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = plain(requirement.name)
        for text in requires_of(name) if name not in needed else ():
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(f"{inner.name}[{','.join(inner.extras)}]" if inner.extras else inner.name)
        needed.add(name)
    locked = set().union(*map(pins, LOCKED.values()))
    assert needed - locked == set()


def requires_of(name: str) -> list[str]:
    """What an installed package requires."""
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


def test_the_files_are_split() -> None:
    """torch apart, with one hash more; what it brings for GPUs apart; what other systems need left out."""
    text = (
        "torch==2 \\\n    --hash=sha256:a\nnvidia-x==1 ; sys_platform == 'linux' \\\n    --hash=sha256:b\n"
        "numpy==3 \\\n    --hash=sha256:c \\\n    --hash=sha256:d\n"
        "colorama==1 ; sys_platform == 'win32' \\\n    --hash=sha256:e\n"
    )
    files = split(text, "f")
    assert files["torch.txt"] == "torch==2 \\\n    --hash=sha256:a \\\n    --hash=sha256:f\n"
    assert files["cuda.txt"] == "nvidia-x==1 ; sys_platform == 'linux' \\\n    --hash=sha256:b\n"
    assert files["base.txt"] == "numpy==3 \\\n    --hash=sha256:c \\\n    --hash=sha256:d\n"


def test_what_an_extra_brings_is_apart() -> None:
    """Only what the image has not anyway, and what Linux needs."""
    known = "numpy==3 \\\n    --hash=sha256:c\n"
    more = known + "ray==1 \\\n    --hash=sha256:a\ncolorama==1 ; sys_platform == 'win32' \\\n    --hash=sha256:e\n"
    assert beyond(known, more) == "ray==1 \\\n    --hash=sha256:a\n"


def test_the_bill_of_materials() -> None:
    """Of this environment: every package with its version, most with a licence."""
    made = json.loads(json.dumps(document()))
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    parts = {part["name"]: part for part in made["components"]}
    assert parts["numpy"]["purl"] == f"pkg:pypi/numpy@{version('numpy')}"
    assert parts["fastapi"]["version"] == version("fastapi")
    assert sum("licenses" in part for part in parts.values()) > 0.8 * len(parts)


@pytest.mark.parametrize("name", PROJECT["services"])
def test_every_service_is_hardened(name: str) -> None:
    """Read-only, without capabilities, within memory and processes, on this machine alone unless told otherwise."""
    service: dict[str, Any] = PROJECT["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"] == service["memswap_limit"]
    assert 0 < service["pids_limit"] <= 512
    for port in service["ports"]:
        assert port.startswith(("127.0.0.1:", "${PUBLISH_ADDRESS:-127.0.0.1}:")), port
