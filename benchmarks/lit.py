"""LitServe with the same model, in its own way: ``python -m benchmarks.lit PORT THREADS WORKERS BATCH WAIT``.

Needs ``pip install litserve``. The class is at the top of its module because LitServe's worker processes unpickle it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import litserve
from fastapi import Response

from benchmarks.rivals import answer, load_model, pixels


class API(litserve.LitAPI):  # type: ignore[misc]
    """Decode a request, batch, predict, unbatch, encode."""

    def setup(self, device: str) -> None:
        self.model = load_model(int(os.environ["RIVAL_THREADS"]))

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe makes a route of an annotation
        data = request["image"].file.read()
        questions = [str(question) for question in request.getlist("question")]
        return pixels(self.model, data), questions, str(request.get("maps", "float"))

    def batch(self, inputs: list[Any]) -> list[Any]:
        return list(inputs)

    def predict(self, inputs: Any) -> Any:
        return answer(self.model, inputs) if isinstance(inputs, list) else answer(self.model, [inputs])[0]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="application/json")


def main(argv: list[str]) -> None:
    """Serve."""
    port, os.environ["RIVAL_THREADS"], workers = int(argv[0]), argv[1], int(argv[2])
    api = API(max_batch_size=int(argv[3]), batch_timeout=float(argv[4]), api_path="/v1/answer")
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=workers, healthcheck_path="/health/ready", timeout=60
    )
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1:])
