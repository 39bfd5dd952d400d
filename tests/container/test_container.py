"""The image, built from a clean clone by a real Docker engine: unprivileged, read-only, offline, healthy, draining.

``CROSSLOOK_TEST_IMAGE`` names an image that is there already. pip's settings (``PIP_INDEX_URL``, ``PIP_FIND_LINKS`` ..)
are handed to the build. Everything runs in the host's network or in none, so an engine without a bridge will do.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.app.servers import ROOT, wait_for

pytestmark = pytest.mark.long

ASK = """
from crosslook import Client
with Client("http://127.0.0.1:8080") as client:
    answer = client.answer("examples/cat.jpg", "What animal is this?")
    print(answer, round(sum(map(sum, answer.map.values)) + answer.map.elsewhere, 3), answer.for_word("animal").peak())
"""


INSIDE = """
import io, json
from PIL import Image, ImageDraw
from crosslook import Client
from crosslook.fonts import Lettering, runs
drawn = "".join(part for _, part in runs("cat \u732b"))
image = Image.new("RGB", (400, 200), "white")
Lettering(64).draw(ImageDraw.Draw(image), (100, 60), "STOP", (0, 0, 0))
file = io.BytesIO()
image.save(file, "PNG")
with Client("http://127.0.0.1:8080", timeout=120) as client:
    read = client.answer(file.getvalue(), "What does the sign say?")
names = {part["name"] for part in json.load(open("/opt/venv/sbom.cdx.json"))["components"]}
print(json.dumps({"drawn": drawn, "read": str(read), "over": read.score_over, "names": sorted(names)}))
"""


def docker(*arguments: str, check: bool = True, timeout: float = 600) -> str:
    """Run the docker command and return what it prints. An engine without an overlay file system copies every layer
    when a container is made, and deletes the copy with it: minutes on a slow disk."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout.strip()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image under test."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("needs a Docker engine")
    given = os.environ.get("CROSSLOOK_TEST_IMAGE")
    if given:
        return given
    clone = tmp_path_factory.mktemp("clone")
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    names = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST", "TORCH_INDEX")
    passed = [f"--build-arg={name}={os.environ[name]}" for name in names if name in os.environ]
    docker("build", "--network=host", "-t", "crosslook:test", *passed, str(clone), timeout=3600)
    return "crosslook:test"


@pytest.fixture
def container(image: str) -> Iterator[Callable[..., str]]:
    """Starts containers, and removes them at the end."""
    started: list[str] = []

    def start(*options: str) -> str:
        started.append(docker("run", "-d", *options, image))
        return started[-1]

    yield start
    for name in started:
        docker("rm", "-f", name, check=False)


def state(name: str) -> dict[str, Any]:
    """The container's state: Status, ExitCode, Health."""
    found: dict[str, Any] = json.loads(docker("inspect", "-f", "{{json .State}}", name))
    return found


def healthy(name: str) -> bool:
    """Whether the health check of the image says so. Fails when the container ended."""
    now = state(name)
    assert now["Status"] == "running", docker("logs", name)
    return bool(now["Health"]["Status"] == "healthy")


def test_unprivileged_read_only_offline(container: Callable[..., str]) -> None:
    hardened = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")
    name = container(*hardened)
    assert wait_for(lambda: healthy(name), 240)
    assert docker("exec", name, "id", "-u") == "10001"
    assert docker("exec", name, "sh", "-c", "touch /srv/x 2>&1 || true").endswith("Read-only file system")
    answer, total, *_ = docker("exec", name, "python", "-c", ASK).split()
    assert answer == "cat"
    assert float(total) == pytest.approx(1.0, abs=0.01)
    assert docker("exec", name, "sh", "-c", "command -v gcc cc pip || true") == ""
    inside = json.loads(docker("exec", name, "python", "-c", INSIDE).splitlines()[-1])
    assert inside["drawn"] == "cat \u732b", "no font for Chinese"
    assert (inside["read"].lower(), inside["over"]) == ("stop", "text"), "no reading of text"
    assert {"python", "torch", "onnxruntime", "rapidocr", "pillow", "fastapi", "pi-heif"} <= {*inside["names"]}
    assert "pip" not in inside["names"]


def test_it_drains_on_stop(container: Callable[..., str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    name = container("--network=host", "-e", f"CROSSLOOK_PORT={port}", "-e", "CROSSLOOK_HOST=127.0.0.1")
    assert wait_for(lambda: healthy(name), 240)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        files = {"image": (ROOT / "examples" / "cat.jpg").read_bytes()}
        assert client.post("/v1/answer", data={"question": "What animal is this?"}, files=files).status_code == 200
    start = time.monotonic()
    docker("stop", "--time=30", name)
    assert state(name)["ExitCode"] == 0
    assert time.monotonic() - start < 30  # it was not killed


def test_compose(image: str, tmp_path: Path) -> None:
    """The compose file as it is, but for the network: an engine without a bridge has the host's alone."""
    command = ["docker", "compose"]
    if subprocess.run([*command, "version"], capture_output=True).returncode:
        if shutil.which("docker-compose") is None:
            pytest.skip("needs docker compose")
        command = ["docker-compose"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    service = {**project["services"]["cpu"], "image": image, "network_mode": "host"}
    del service["build"], service["ports"]
    service["environment"] = {"CROSSLOOK_PORT": str(port)}
    derived = tmp_path / "docker-compose.yml"
    derived.write_text(yaml.safe_dump({"services": {"cpu": service}}))
    call = [*command, "-p", f"crosslook{port}", "-f", str(derived)]
    environment = {**os.environ, "COMPOSE_HTTP_TIMEOUT": "600"}  # as in `docker`
    try:
        subprocess.run([*call, "up", "-d"], check=True, capture_output=True, env=environment)
        url = f"http://127.0.0.1:{port}/health/ready"

        def ready() -> bool:
            try:
                return httpx.get(url).status_code == 200
            except httpx.TransportError:
                return False

        assert wait_for(ready, 240)
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        files = {"image": (ROOT / "examples" / "cat.jpg").read_bytes()}
        question = {"question": "What animal is this?"}
        answered = httpx.post(f"http://127.0.0.1:{port}/v1/answer", data=question, files=files, timeout=120)
        assert answered.json()["results"][0]["answer"] == "cat"
        name = subprocess.run([*call, "ps", "-q"], check=True, capture_output=True, text=True).stdout.strip()
        obeyed = json.loads(docker("inspect", "-f", "{{json .HostConfig}}", name))
        assert (obeyed["ReadonlyRootfs"], obeyed["CapDrop"], obeyed["Memory"]) == (True, ["ALL"], 4 << 30)
        assert obeyed["PidsLimit"] == 256
    finally:
        subprocess.run([*call, "down"], check=True, capture_output=True, env=environment)
