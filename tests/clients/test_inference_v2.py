"""Unmodified clients of the Open Inference Protocol, each in an environment of its own: their pins differ from ours."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.app.servers import ROOT

pytestmark = pytest.mark.long

SNIPPET = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "clients.md").read_text("utf-8"), re.DOTALL)[0]

TRITON = """
import json, sys
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

address, path = sys.argv[1].removeprefix("http://"), sys.argv[2]
client = triton.InferenceServerClient(address)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("colours")
assert client.is_model_ready("colours", "sha256:0")
assert not client.is_model_ready("another")
metadata = client.get_model_metadata("colours")
assert metadata["versions"] == ["sha256:0"] and client.get_server_metadata()["name"] == "crosslook"

def tensors(binary, *texts):
    import base64
    data = open(path, "rb").read()
    image, question = triton.InferInput("image", [1], "BYTES"), triton.InferInput("question", [len(texts)], "BYTES")
    image.set_data_from_numpy(np.array([data if binary else base64.b64encode(data)], object), binary_data=binary)
    question.set_data_from_numpy(np.array([text.encode() for text in texts], object), binary_data=binary)
    return [image, question]

found = []
for binary in (True, False):
    names = ("answer", "score", "answer_map", "region")
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    result = client.infer("colours", tensors(binary, "is it red?", "which?"), outputs=outputs, request_id="7")
    answer = [each.decode() if isinstance(each, bytes) else each for each in result.as_numpy("answer").tolist()]
    found.append({"answer": answer, "map": result.as_numpy("answer_map").tolist(), "id": result.get_response()["id"]})
whole = client.infer("colours", tensors(True, "red?"), parameters={"maps": "float", "candidates": "red,green"})
native = json.loads(whole.as_numpy("result")[0])
try:
    client.infer("colours", tensors(True, " "))
    raise SystemExit("an empty question passed")
except InferenceServerException as error:
    said = str(error)
tokens = list(whole.as_numpy("question_map").shape)
print(json.dumps({"found": found, "native": native, "tokens": tokens, "said": said}))
"""

KSERVE = """
import asyncio, base64, json, sys
import httpx
from kserve import InferInput, InferRequest, InferenceRESTClient, RESTConfig

async def main():
    url, path = sys.argv[1:3]
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_ready(url) and await client.is_server_live(url)
    assert await client.is_model_ready(url, "colours")
    image = base64.b64encode(open(path, "rb").read()).decode()
    inputs = [
        InferInput("image", [1], "BYTES", data=[image]),
        InferInput("question", [1], "BYTES", data=["is it red?"]),
    ]
    request = InferRequest("colours", inputs, request_id="7", parameters={"maps": "float"})
    response = await client.infer(url, request, model_name="colours")
    outputs = {each.name: each for each in response.outputs}
    assert not await client.is_model_ready(url, "another")
    try:
        await client.infer(url, InferRequest("colours", inputs[:1]), model_name="colours")
        raise SystemExit("no question passed")
    except httpx.HTTPStatusError as error:
        said, status = str(error), error.response.status_code
    found = {"answer": outputs["answer"].data, "shape": outputs["answer_map"].shape, "id": response.id}
    print(json.dumps({**found, "said": said, "status": status}))

asyncio.run(main())
"""

OPEN_INFERENCE = """
import base64, json, sys
from open_inference.openapi.client import OpenInferenceClient, InferenceRequest
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.errors import NotFoundError

url, path = sys.argv[1:3]
client = OpenInferenceClient(base_url=url)
client.check_server_liveness()
client.check_server_readiness()
client.check_model_readiness("colours")
client.check_model_version_readiness("colours", "sha256:0")
assert client.read_server_metadata().extensions == ["binary_tensor_data"]
metadata = client.read_model_metadata("colours")
assert metadata == client.read_model_version_metadata("colours", "sha256:0")
try:
    client.check_model_readiness("another")
    raise SystemExit("another model is ready")
except NotFoundError as error:
    assert list(error.body) == ["error"]
image = base64.b64encode(open(path, "rb").read()).decode()
request = InferenceRequest(
    inputs=[
        {"name": "image", "shape": [1], "datatype": "BYTES", "data": [image]},
        {"name": "question", "shape": [1], "datatype": "BYTES", "data": ["is it red?"]},
    ],
    parameters={"maps": "float"},
)
response = client.model_infer("colours", request=request)
assert response == client.model_version_infer("colours", "sha256:0", request=request)
try:
    client.model_infer("colours", request=InferenceRequest(inputs=request.inputs[:1]))
    raise SystemExit("no question passed")
except ApiError as error:
    said = error.body["error"]
outputs = {each.name: each for each in response.outputs}
answer = getattr(outputs["answer"].data, "__root__", outputs["answer"].data)
print(json.dumps({"answer": answer, "shape": outputs["answer_map"].shape, "name": metadata.name, "said": said}))
"""

Run = Callable[..., str]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The interpreter of an environment with one package and what it needs, made once each."""
    folder = tmp_path_factory.mktemp("environments")

    def of(package: str) -> Path:
        python = folder / package / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder / package)], check=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--prefer-binary"]
            installed = subprocess.run([*pip, package], capture_output=True, text=True, check=False)
            if installed.returncode:
                pytest.skip(f"{package} cannot be installed here: {installed.stderr[-300:]}")
        return python

    return of


@pytest.fixture
def run(tmp_path: Path, red: bytes, environment: Callable[[str], Path]) -> Run:
    """Runs a program where one package is; returns what it prints."""

    def in_environment(package: str, program: str, *arguments: str, cwd: Path = tmp_path) -> str:
        (tmp_path / "program.py").write_text(program, "utf-8")
        (tmp_path / "red.png").write_bytes(red)
        command = [str(environment(package)), str(tmp_path / "program.py"), *arguments]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return in_environment


def test_tritonclient(run: Run, url: str, tmp_path: Path) -> None:
    """Binary, as it sends unless told otherwise, and JSON: the same answers and maps. Errors have their message."""
    seen: dict[str, Any] = json.loads(run("tritonclient[http]", TRITON, url, str(tmp_path / "red.png")))
    binary, plain = seen["found"]
    assert binary == plain
    assert binary["answer"] == ["red", "red"]
    assert binary["id"] == "7"
    assert len(binary["map"]) == 2
    assert {each["answer"] for each in seen["native"]["results"][0]["ranking"]} == {"red", "green"}
    assert seen["tokens"] == [1, 2, 4, 6]
    assert "has no text" in seen["said"]


def test_the_snippet_of_the_documentation(run: Run, url: str) -> None:
    """As it stands there, but for the model and the address."""
    program = SNIPPET.replace("127.0.0.1:8080", url.removeprefix("http://")).replace('"compact"', '"colours"')
    assert "(1, 4, 6)" in run("tritonclient[http]", program, cwd=ROOT)


def test_kserve(run: Run, url: str, tmp_path: Path) -> None:
    seen = json.loads(run("kserve", KSERVE, url, str(tmp_path / "red.png")))
    assert "Field required: question" in seen.pop("said")
    assert seen == {"answer": ["red"], "shape": [1, 4, 6], "id": "7", "status": 422}


def test_open_inference_openapi(run: Run, url: str, tmp_path: Path) -> None:
    seen = json.loads(run("open-inference-openapi", OPEN_INFERENCE, url, str(tmp_path / "red.png")))
    assert "Field required: question" in seen.pop("said")
    assert seen == {"answer": ["red"], "shape": [1, 4, 6], "name": "colours"}
