"""The manifests: every file by the schemas of Kubernetes, and what kustomize builds of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.settings import Settings
from tests.app.servers import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
BUILDS = [FOLDER / "base", *sorted((FOLDER / "overlays").iterdir())]
FILES = [path for path in sorted(FOLDER.rglob("*.yaml")) if path.name != "kustomization.yaml"]
VERSION = "1.33"
CUSTOM = {  # kinds of operators, whose schemas are theirs
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("networking.istio.io/v1", "DestinationRule"),
}


def validate(manifest: dict[str, Any]) -> None:
    """By the schema of its kind, which knows every field."""
    if (manifest["apiVersion"], manifest["kind"]) not in CUSTOM:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


def built(folder: Path) -> dict[str, Any]:
    """What kustomize makes of a folder, by kinds and names."""
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            made = subprocess.run([*command, str(folder)], check=True, capture_output=True, text=True).stdout
            found = {f"{each['kind']}/{each['metadata']['name']}": each for each in yaml.safe_load_all(made)}
            return {re.sub(r"^(ConfigMap/crosslook)-[a-z0-9]{10}$", r"\1", name): each for name, each in found.items()}
    pytest.skip("neither kubectl nor kustomize is installed")


def test_every_file_is_built_by_something() -> None:
    """And nothing is named that is not there."""
    named = set()
    for folder in BUILDS:
        found = yaml.safe_load((folder / "kustomization.yaml").read_text())
        paths = [*found["resources"], *(patch["path"] for patch in found.get("patches", []) if "path" in patch)]
        named |= {(folder / path).resolve() for path in paths}
        assert all((folder / path).exists() for path in paths)
    assert set(FILES) <= named


@pytest.mark.parametrize("folder", BUILDS, ids=lambda path: path.name)
def test_what_is_built_is_valid(folder: Path) -> None:
    for name, manifest in built(folder).items():
        validate(manifest)
        assert manifest["metadata"]["labels"]["app.kubernetes.io/name"] == "crosslook", name


def test_a_wrong_field_is_seen() -> None:
    """So the test above can fail."""
    manifest = yaml.safe_load((FOLDER / "base" / "disruption.yaml").read_text())
    validate(manifest)
    manifest["spec"]["maxUnavailables"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(manifest)


def container(manifests: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod and its container."""
    pod = manifests["Deployment/crosslook"]["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


@pytest.mark.parametrize("folder", BUILDS, ids=lambda path: path.name)
def test_times_fit_together(folder: Path) -> None:
    """Of the probes with the settings, and of the end with the drain."""
    manifests = built(folder)
    pod, one = container(manifests)
    settings = manifests["ConfigMap/crosslook"]["data"]
    names = {f"CROSSLOOK_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in settings if name.startswith("CROSSLOOK_")} <= names
    drain = float(settings["CROSSLOOK_DRAIN_SECONDS"]) + one["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > drain
    startup = one["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= float(settings["CROSSLOOK_LOAD_SECONDS"])
    assert {one[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe")} == {"/health/ready"}
    assert one["livenessProbe"]["httpGet"]["path"] == "/health/live"


@pytest.mark.parametrize("folder", BUILDS, ids=lambda path: path.name)
def test_pods_are_hardened_as_the_compose_file_has_it(folder: Path) -> None:
    manifests = built(folder)
    pod, one = container(manifests)
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert one["securityContext"]["readOnlyRootFilesystem"]
    assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    policy = manifests["NetworkPolicy/crosslook"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert bool(policy.get("egress")) == (folder.name == "gpu"), "only a model that must be fetched lets it out"


def test_the_overlays_do_what_they_say() -> None:
    _, one = container(built(FOLDER / "overlays" / "gpu"))
    assert one["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert one["image"] == "crosslook:gpu"
    scaled = built(FOLDER / "overlays" / "keda")
    assert "replicas" not in scaled["Deployment/crosslook"]["spec"], "KEDA's to say"
    assert "ScaledObject/crosslook" in scaled
    watched = built(FOLDER / "overlays" / "monitoring")
    assert watched["ConfigMap/crosslook-dashboard"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert watched["ServiceMonitor/crosslook"]["spec"]["selector"]["matchLabels"].items() <= (
        watched["Service/crosslook"]["metadata"]["labels"].items()
    )
    rule = built(FOLDER / "overlays" / "affinity")["DestinationRule/crosslook"]["spec"]
    assert rule["trafficPolicy"]["loadBalancer"]["consistentHash"] == {"httpHeaderName": "x-session-id"}
