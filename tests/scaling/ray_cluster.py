"""A local Ray with crosslook on it, told what to do by lines of JSON on stdin; each gets a line of JSON back.

A process of its own: Ray's workers, warnings and signal handlers stay out of the tests'. ``{"do": "deploy", "options":
{..}}``, ``"apply"`` (an application of Serve's configuration), ``"replicas"``, ``"kill"``, ``"delete"``, and ``"join"``
and ``"lose"``: a second node of this cluster, as another machine would be one.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from app.ray_serve import build

OBJECTS = 100_000_000  # bytes of each node's store


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


def do(command: dict[str, Any], cluster: Cluster) -> dict[str, Any]:
    """Carry out one command."""
    what = command["do"]
    if what == "deploy":
        serve.run(build(command["options"]), name="crosslook", route_prefix="/", blocking=False)
        return {"replicas": replicas()}
    if what == "apply":  # as the operator of KubeRay and `serve deploy` do, which need Ray's dashboard for it
        _get_global_client().deploy_apps(ServeDeploySchema(applications=[command["options"]]))
        return {"applied": True}
    if what == "replicas":
        return {"replicas": replicas()}
    if what == "kill":
        name = actors()[0]
        ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)
        return {"killed": name}
    if what == "delete":
        serve.delete("crosslook")
        return {"deleted": True}
    if what == "join":
        cluster.add_node(num_cpus=8, object_store_memory=OBJECTS)
        return {"nodes": len(ray.nodes())}
    if what == "lose":
        (node,) = cluster.worker_nodes
        names = {*actors()}
        there = [
            each["Name"]
            for each in ray._private.state.actors().values()
            if each["Address"]["NodeID"] == node.node_id and each["Name"] in names
        ]
        cluster.remove_node(node, allow_graceful=False)
        return {"lost": there}
    raise ValueError(what)


def main(port: int) -> None:
    """Until stdin ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray's own words go to stderr
    environment = {
        name: value for name, value in os.environ.items() if name == "PYTHONPATH" or name.startswith("CROSSLOOK_")
    }
    head = {"num_cpus": 8, "include_dashboard": False, "object_store_memory": OBJECTS}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        logging_level=logging.WARNING,
        runtime_env={"env_vars": environment},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 60.0})
    try:
        for line in sys.stdin:
            began = time.monotonic()
            answer = do(json.loads(line), cluster)
            out.write(json.dumps({**answer, "seconds": round(time.monotonic() - began, 2)}) + "\n")
            out.flush()
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
