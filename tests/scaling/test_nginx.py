"""Two servers behind a real nginx with the recipe of docs/scaling.md: no image is asked for where it is not."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from crosslook import Client
from tests.app.servers import ROOT, Server, serving, wait_for
from tests.scaling.made import made_image, total

pytestmark = pytest.mark.long

RECIPE = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8"), re.DOTALL)[0]
IMAGES, QUESTIONS = 24, 4


@contextmanager
def nginx(folder: Path, recipe: str, *urls: str) -> Iterator[str]:
    """nginx with a recipe in whose servers' places stand ``urls``. Yields its own URL."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed (apt-get install nginx-light)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recipe = recipe.replace("listen 80;", f"listen 127.0.0.1:{port};")
    servers = "".join(f"    server {url.removeprefix('http://')};\n" for url in urls)
    recipe, found = re.subn(r"(?:    server 10\.0\.0\.\d:8080;\n)+", servers, recipe)
    assert found == 1
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = folder / "nginx.conf"
    # As root it would answer as nobody, who may not keep the body of a request in this folder.
    user = "user root;\n" if os.geteuid() == 0 else ""
    configuration.write_text(
        f"{user}daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{recipe}}}\n"
    )
    command = [program, "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(configuration)]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        assert wait_for(lambda: answers(url) or process.poll() is not None, 20)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(20)


def answers(url: str) -> bool:
    """Whether anything listens there."""
    try:
        httpx.get(f"{url}/health/live", timeout=5)
    except httpx.TransportError:
        return False
    return True


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers of one worker each."""
    folder = tmp_path_factory.mktemp("pair")
    with serving(folder / "one") as one, serving(folder / "two") as two:
        yield [one, two]


def test_no_image_is_asked_for_where_it_is_not(pair: list[Server], tmp_path: Path) -> None:
    """Each is encoded once in all, and every later question finds it, by its bytes or by its id."""
    with nginx(tmp_path, RECIPE, *(server.url for server in pair)) as url:
        before = [total(server.url, "crosslook_images_encoded_total") for server in pair]
        with Client(url) as client:
            images = [made_image(n) for n in range(IMAGES)]
            with ThreadPoolExecutor(4) as pool:
                for _ in range(QUESTIONS):
                    asked = list(pool.map(lambda image: client.answer(image, "how bright?", maps="none"), images))
            references = [client.upload(image) for image in images]
            for answer, reference in zip(asked, references, strict=True):
                assert client.answer(reference, "how bright?", maps="none").answer == answer.answer
        encoded = [total(server.url, "crosslook_images_encoded_total") for server in pair]
        spread = [now - then for now, then in zip(encoded, before, strict=True)]
        assert sum(spread) == IMAGES
        assert min(spread) > 0, "both have a part"
        assert [total(server.url, 'crosslook_errors_total{code="image_not_found"}') for server in pair] == [0, 0]


def test_without_the_header_images_are_missed(pair: list[Server], tmp_path: Path) -> None:
    """So the test above can fail: the same servers in turns."""
    turns = RECIPE.replace("hash $http_x_session_id consistent;", "")
    assert turns != RECIPE
    with (
        nginx(tmp_path, turns, *(server.url for server in pair)) as url,
        httpx.Client(base_url=url) as plain,
        Client(url) as client,
    ):
        reference = client.upload(made_image(1000))
        body = {"image_id": reference.id, "questions": ["a?"], "maps": "none"}
        statuses = {plain.post("/v1/answer", json=body).status_code for _ in range(6)}
        assert statuses == {200, 404}


def test_a_replica_that_leaves_takes_only_its_images(pair: list[Server], tmp_path: Path) -> None:
    """Asked by id for an image of the one that is gone, the client sends the bytes again; nothing is answered wrong."""
    with (
        serving(tmp_path / "third") as third,
        nginx(tmp_path, RECIPE, pair[0].url, third.url) as url,
        Client(url) as client,
    ):
        images = [made_image(2000 + n) for n in range(IMAGES)]
        before = [client.answer(image, "how bright?", maps="none").answer for image in images]
        third.terminate()
        assert [client.answer(image, "how bright?", maps="none").answer for image in images] == before
