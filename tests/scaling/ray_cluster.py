"""A local Ray with crosslook on it, told what to do by lines of JSON on stdin; each gets a line of JSON back.

A process of its own: Ray's workers, warnings and signal handlers stay out of the tests'. ``{"do": "deploy", "options":
{..}}``, ``"replicas"``, ``"kill"``, ``"delete"``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve

from app.ray_serve import Options, build

ROOT = Path(__file__).resolve().parents[2]


def replicas() -> int:
    """How many run now."""
    application = serve.status().applications.get("crosslook")
    if application is None or "crosslook" not in application.deployments:
        return 0
    states = application.deployments["crosslook"].replica_states
    return int(states.get("RUNNING", 0))


def actors() -> list[str]:
    """The names of the replicas' actors."""
    named = (each["name"] for each in ray.util.list_named_actors(all_namespaces=True))
    return sorted(name for name in named if name.startswith("SERVE_REPLICA::crosslook#"))


def do(command: dict[str, Any]) -> dict[str, Any]:
    """Carry out one command."""
    what = command["do"]
    if what == "deploy":
        options = Options(**command["options"])
        serve.run(build(options), name="crosslook", route_prefix="/", blocking=False)
        return {"replicas": replicas()}
    if what == "replicas":
        return {"replicas": replicas()}
    if what == "kill":
        name = actors()[0]
        ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)
        return {"killed": name}
    if what == "delete":
        serve.delete("crosslook")
        return {"deleted": True}
    raise ValueError(what)


def main(port: int) -> None:
    """Until stdin ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray's own words go to stderr
    environment = {
        name: value for name, value in os.environ.items() if name == "PYTHONPATH" or name.startswith("CROSSLOOK_")
    }
    ray.init(
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=100_000_000,
        runtime_env={"env_vars": environment},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 60.0})
    try:
        for line in sys.stdin:
            began = time.monotonic()
            answer = do(json.loads(line))
            out.write(json.dumps({**answer, "seconds": round(time.monotonic() - began, 2)}) + "\n")
            out.flush()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
