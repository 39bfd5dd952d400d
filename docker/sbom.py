"""``python sbom.py > sbom.cdx.json``: the Python packages of this environment, as CycloneDX 1.6."""

from __future__ import annotations

import json
import platform
import re
import sys
from importlib.metadata import Distribution, distributions
from typing import Any


def component(package: Distribution) -> dict[str, Any]:
    """One package. A licence that is no SPDX expression is given as a name."""
    metadata = package.metadata
    name = re.sub(r"[-_.]+", "-", metadata["Name"]).lower()
    purl = f"pkg:pypi/{name}@{package.version}"
    found: dict[str, Any] = {
        "type": "library",
        "name": name,
        "version": package.version,
        "purl": purl,
        "bom-ref": purl,
    }
    classifiers = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier", []) if "License ::" in each]
    named = (metadata.get("License") or ", ".join(classifiers)).splitlines()
    if metadata.get("License-Expression"):
        found["licenses"] = [{"expression": metadata["License-Expression"]}]
    elif named:
        found["licenses"] = [{"license": {"name": named[0][:200]}}]
    return found


def document() -> dict[str, Any]:
    """All of them, and Python itself."""
    parts = {part["name"]: part for part in map(component, distributions())}
    python = {"type": "application", "name": "python", "version": platform.python_version()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "crosslook"}},
        "components": [python, *(parts[name] for name in sorted(parts))],
    }


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
