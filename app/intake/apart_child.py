"""The process of `app.intake.apart`: a file comes in, its pixels go out. Run as a script, not imported."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    """Read a file from standard input and write a line of JSON, behind it the RGB pixels."""
    order = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (order["memory"], order["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (order["seconds"], order["seconds"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    package = ModuleType("crosslook")  # the whole of it would bring the HTTP client, which takes longer than decoding
    package.__path__ = [str(Path(__file__).parents[2] / "crosslook")]
    sys.modules["crosslook"] = package
    from PIL import AvifImagePlugin, Image

    from crosslook.decoding import DecodingError, ImageLimits, decode_image

    limits = ImageLimits(**order["limits"])
    Image.MAX_IMAGE_PIXELS = limits.pixels
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    try:
        rendered = decode_image(sys.stdin.buffer.read(), limits)
    except DecodingError as error:
        answer = {"error": type(error).__name__, "message": str(error), "detail": error.detail}
        sys.stdout.write(json.dumps(answer) + "\n")
        return
    found = {"width": rendered.width, "height": rendered.height, "size": rendered.image.size}
    sys.stdout.buffer.write(json.dumps(found).encode() + b"\n")
    sys.stdout.flush()
    for top in range(0, rendered.image.height, 128):
        strip = rendered.image.crop((0, top, rendered.image.width, min(top + 128, rendered.image.height)))
        sys.stdout.buffer.write(strip.tobytes())
    sys.stdout.flush()


if __name__ == "__main__":
    main()
