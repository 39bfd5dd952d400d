"""Settings that must stand before any test module is imported."""

from __future__ import annotations

import os
from pathlib import Path

# Without an NVIDIA driver the Triton kernels run in Triton's interpreter. Triton reads this when it is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
