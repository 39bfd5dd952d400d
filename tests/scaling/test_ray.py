"""A real Ray on this machine with two replicas and with four: affinity, a replica that is killed, drain, a new model,
more and fewer replicas."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import yaml

from crosslook import Client
from tests.app.servers import ROOT, wait_for
from tests.fakes import model as standin
from tests.fakes import reference_server
from tests.scaling.local_ray import Load, Ray, Seen, brightness, of_replicas, running_ray, watched
from tests.scaling.made import made_image

pytestmark = pytest.mark.long
two_and_four = pytest.mark.parametrize("replicas", [2, 4])
IMAGES = 60  # so many that each of four replicas has some


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    """One Ray for all tests of this module."""
    pytest.importorskip("ray")
    with running_ray(tmp_path_factory.mktemp("ray") / "log") as found:
        yield found


def fixed(replicas: int, loader: str = standin.LOADER) -> dict[str, Any]:
    """Options of as many replicas of a CPU each."""
    return {"replicas": replicas, "num_cpus": 1, "loader": loader}


def deploy(ray: Ray, replicas: int) -> None:
    """As many new replicas of the stand-in."""
    ray.do("deploy", **fixed(replicas))
    assert wait_for(lambda: ray.has(replicas))


@two_and_four
def test_an_images_questions_go_to_its_replica(ray: Ray, replicas: int) -> None:
    """By bytes and by id: each image is encoded once in all, and none is asked for where it is not."""
    deploy(ray, replicas)
    seen, images = Seen(), [made_image(n) for n in range(IMAGES)]
    with watched(ray, seen) as client:
        for _ in range(3):
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda image: client.answer(image, "how bright?", maps="none"), images))
        for reference in [client.upload(image) for image in images]:
            client.answer(reference, "how bright?", maps="none")
    assert seen.statuses == {200: 5 * IMAGES}
    assert seen.caches == {"miss": IMAGES, "hit": 4 * IMAGES}
    assert seen.request_ids == {1: 5 * IMAGES}, "Ray's, and not the service's again"
    encoded = of_replicas(ray, "crosslook_images_encoded_total")
    assert len(encoded) == replicas
    assert sum(encoded) == IMAGES
    assert min(encoded) > 0


def test_errors_and_routes_pass_through(ray: Ray) -> None:
    """As the service says them, with its own body and headers."""
    response = httpx.post(f"{ray.url}/v1/answer", json={"image": "?", "questions": ["a?"]})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_base64")
    assert httpx.get(f"{ray.url}/health/ready").json() == {"status": "ready"}
    assert httpx.get(f"{ray.url}/-/healthz").status_code == 200
    assert "crosslook" in httpx.get(ray.url).text


@two_and_four
def test_a_replica_is_killed_under_load(ray: Ray, replicas: int) -> None:
    """Every request is answered at last, none wrong, and there are as many replicas again."""
    deploy(ray, replicas)
    with Load(ray, 1000) as load:
        assert wait_for(lambda: len(load.answers) > 20)
        assert ray.do("kill")["killed"]
        count = len(load.answers)
        assert wait_for(lambda: ray.has(replicas) and len(load.answers) > count + 40)
    assert load.errors == []
    assert load.wrong == []


def test_a_machine_is_lost_under_load(ray: Ray) -> None:
    """With the replicas that it had: no answer is lost or wrong, and there are four again on what is left."""
    ray.do("delete")
    ray.do("join")
    deploy(ray, 4)
    with Load(ray, 6000) as load:
        assert wait_for(lambda: len(load.answers) > 20)
        assert 0 < len(ray.do("lose")["lost"]) < 4, "replicas are spread over both"
        count = len(load.answers)
        assert wait_for(lambda: ray.has(4) and len(load.answers) > count + 40)
    assert load.errors == []
    assert load.wrong == []


@two_and_four
def test_a_new_model_is_rolled_out_under_load(ray: Ray, replicas: int) -> None:
    """Every request is answered, by the old or by the new one; in the end only by the new."""
    deploy(ray, replicas)
    with Load(ray, 2000) as load:
        assert wait_for(lambda: len(load.answers) > 20)
        ray.do("deploy", **fixed(replicas, reference_server.LOADER))
        assert wait_for(lambda: ray.has(replicas))
        count = len(load.answers)
        assert wait_for(lambda: len(load.answers) > count + 40)
    assert load.errors == []
    models = [model for _, _, model in load.answers]
    assert set(models) == {"stand-in", "colours"}
    assert set(models[-20:]) == {"colours"}


@two_and_four
def test_what_was_accepted_is_answered_when_it_is_taken_down(ray: Ray, replicas: int) -> None:
    """Six questions of half a second for each replica, of which most still wait when the application is deleted."""
    deploy(ray, replicas)
    count = 6 * replicas
    with Client(ray.url, retries=0, timeout=60) as client, ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(client.answer, made_image(3000 + n), "!slow 0.5", maps="none") for n in range(count)]
        time.sleep(1.0)
        assert not all(each.done() for each in asked)
        ray.do("delete")
        assert [each.result().answer for each in asked] == [brightness(3000 + n) for n in range(count)]
    assert httpx.get(f"{ray.url}/health/ready").status_code == 404


@two_and_four
def test_replicas_come_and_go_with_the_wait(ray: Ray, replicas: int) -> None:
    """One, then as many as may be while requests wait for seconds, then one again; all are answered."""
    scaling = {
        "min_replicas": 1,
        "max_replicas": replicas,
        "upscale_delay_s": 1,
        "downscale_delay_s": 4,
        "look_back_period_s": 2,
    }
    ray.do("delete")
    ray.do("deploy", autoscaling=scaling, num_cpus=1, loader=standin.LOADER)
    assert ray.has(1)
    with Load(ray, 4000, threads=5 * replicas, images=400, question="!slow 0.4") as load:
        assert wait_for(lambda: ray.has(replicas), 120)
    assert wait_for(lambda: ray.has(1), 120)
    assert load.errors == []
    assert load.wrong == []


def test_the_manifests_application_and_a_new_model_by_its_settings(ray: Ray) -> None:
    """What deploy/ray gives to Serve, with real models: another ``CROSSLOOK_MODEL`` is rolled out under load."""
    manifest = yaml.safe_load((ROOT / "deploy" / "ray" / "rayservice.yaml").read_text(encoding="utf-8"))
    application = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"][0]
    application["args"]["num_cpus"] = 1
    ray.do("delete")
    for model in ("tiny", "compact"):
        application["runtime_env"]["env_vars"]["CROSSLOOK_MODEL"] = model
        if model == "tiny":
            ray.do("apply", **application)
            assert wait_for(lambda: ray.has(2))
            continue
        with Load(ray, 5000, threads=2) as load:
            assert wait_for(lambda: len(load.answers) > 4)
            ray.do("apply", **application)
            assert wait_for(lambda: bool(load.answers) and load.answers[-1][2] == "compact")
            assert wait_for(lambda: ray.has(2))
    assert load.errors == []
    assert {model for _, _, model in load.answers} == {"tiny", "compact"}
