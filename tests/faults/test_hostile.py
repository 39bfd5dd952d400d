"""Hostile images at a real server, mixed with good requests; the same at intake alone; and a schema-driven fuzz."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.errors import RequestError
from app.intake import decode
from app.intake.decode import ImageLimits, open_image
from crosslook.errors import CODES
from crosslook.types import AnswerResponse, ErrorBody
from tests.app.conftest import encoded
from tests.app.servers import Server, serving
from tests.faults.hostile import Case, cases, mutated, seeds

LIMITS = ImageLimits(file_bytes=20 * 1024 * 1024, pixels=50_000_000, side=16_384, min_side=8)
IMAGE_CODES = {"unsupported_image", "image_broken", "image_too_large", "image_too_small", "invalid_request"}


def memory(pid: int) -> float:
    """Resident memory in MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


def send(server: Server, case: Case) -> str:
    """Upload one hostile image; returns what came of it after checking its shape."""
    with server.client(120.0) as client:
        files = {"image": ("x", case.data)}
        response = client.post("/v1/answer", files=files, data={"question": "what?", "maps": "none"})
    if response.status_code == 200:
        assert not case.broken, case.name
        AnswerResponse.model_validate_json(response.content)
        return "ok"
    error = ErrorBody.model_validate_json(response.content).error
    assert error.code in IMAGE_CODES, (case.name, response.text)
    assert response.status_code == CODES[error.code].status < 500
    return error.code


def good(server: Server, shade: int) -> None:
    """A good request among them: its answer is right."""
    data = encoded(Image.new("RGB", (32, 24), (shade, shade, shade)), "PNG")
    with server.client(120.0) as client:
        response = client.post("/v1/answer", files={"image": data}, data={"question": ["a?", "b?"]})
    body = AnswerResponse.model_validate_json(response.content)
    assert [result.answer for result in body.results] == [str(shade)] * 2


@pytest.mark.parametrize("count", [240, pytest.param(2400, marks=pytest.mark.long)])
def test_hostile_images_at_concurrency_16(tmp_path: Path, count: int) -> None:
    """Every good request is answered right, every bad one gets a 4xx of the one shape (or, where the damage left a
    readable image, an answer); memory stays bounded and the worker is the same one at the end."""
    everything = list(cases())
    assert len(everything) >= 2000
    chosen = everything if count >= len(everything) else random.Random(count).sample(everything, count)
    with serving(tmp_path / "log") as server, ThreadPoolExecutor(16) as pool:
        good(server, 7)
        before = memory(server.process.pid)
        futures = []
        for index, case in enumerate(chosen):
            futures.append(pool.submit(send, server, case))
            if index % 4 == 0:
                futures.append(pool.submit(good, server, index % 250))
        results = [future.result() for future in futures]
        assert {"image_broken", "unsupported_image", "ok"} <= set(filter(None, results))
        assert memory(server.process.pid) - before < 400
        assert len(server.workers()) == 1
        with server.client() as client:
            assert client.get("/health/ready").status_code == 200


def intake_survives(data: bytes) -> str:
    """Intake gives an RGB image within the limits or a `RequestError`; anything else is a finding."""
    try:
        image = open_image(data, LIMITS, side=64)
    except RequestError as error:
        return error.code
    assert image.image.mode == "RGB"
    assert min(image.width, image.height) >= LIMITS.min_side
    assert image.width * image.height <= LIMITS.pixels
    return "ok"


@pytest.mark.parametrize("seconds", [3.0, pytest.param(600.0, marks=pytest.mark.long)])
def test_fuzzing_of_intake_finds_nothing(seconds: float) -> None:
    """Mutations of every format and mode; the seed of a finding is in the message."""
    decode.configure(LIMITS)
    files = list(seeds().values())
    start = int(time.time())
    end = time.monotonic() + seconds
    seen, seed = set(), start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while time.monotonic() < end:
            seed += 1
            rng = random.Random(seed)
            data = mutated(rng.choice(files), rng, rng.choice((32, 64, 200, 10**6)))
            try:
                seen.add(intake_survives(data))
            except Exception as error:
                raise AssertionError(f"seed {seed}") from error
    assert {"ok", "image_broken"} <= seen
    assert seed - start > 10


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_every_case_at_intake() -> None:
    """A sample of the hostile images without a server: the broken ones are all refused."""
    decode.configure(LIMITS)
    for case in islice(cases(), 0, None, 11):
        result = intake_survives(case.data)
        assert result == "ok" or result in IMAGE_CODES, case.name
        assert not (case.broken and result == "ok"), case.name


CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance"
)


@pytest.mark.parametrize("examples", [5, pytest.param(300, marks=pytest.mark.long)])
def test_schemathesis_over_the_whole_document(tmp_path: Path, examples: int) -> None:
    """No server error and no violation of the document, whatever is sent to any route."""
    tool = Path(sys.executable).with_name("schemathesis")
    with serving(tmp_path / "log") as server:
        command = [str(tool), "run", f"{server.url}/openapi.json", "--max-examples", str(examples), "--no-color"]
        phases = "examples,coverage,fuzzing" if examples > 100 else "examples,fuzzing"
        command += ["--checks", CHECKS, "--phases", phases, "--seed", "1"]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
        assert "Traceback" not in server.log.read_text()
        assert httpx.get(f"{server.url}/health/ready").status_code == 200
