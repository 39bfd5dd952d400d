"""The page behind a load balancer: what is asked about one image goes where that image is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.app.servers import serving
from tests.scaling.made import total
from tests.scaling.test_nginx import RECIPE, nginx
from tests.web.conftest import EXAMPLES, Watched

pytestmark = pytest.mark.long


def test_each_image_is_a_session_and_is_encoded_once(opened: Callable[..., Watched], tmp_path: Path) -> None:
    """Two servers behind nginx with the documented recipe: the page sends one name for each image that is opened, and
    never asks for one where it is not."""
    settings: dict[str, Any] = {"loader": None, "model": "tiny", "threads": 1}
    images = sorted(EXAMPLES.glob("*.jpg"))
    with (
        serving(tmp_path / "one", **settings) as one,
        serving(tmp_path / "two", **settings) as two,
        nginx(tmp_path, RECIPE, one.url, two.url) as url,
    ):
        view = opened(url)
        sent: list[tuple[str, str | None]] = []
        view.page.on(
            "request",
            lambda request: (
                sent.append((request.url.removeprefix(url), request.headers.get("x-session-id")))
                if request.method == "POST"
                else None
            ),
        )
        sessions = []
        for path in images:
            sent.clear()
            view.open_file(path)
            view.page.wait_for_function("name => document.querySelector('#image').alt.includes(name)", arg=path.name)
            view.ask("What is this?")
            view.ask("What color is it?")
            assert [where for where, _ in sent].count("/v1/answer") == 2
            found = {session for _, session in sent}
            assert len(found) == 1, sent
            sessions += found
        assert None not in sessions
        assert len(set(sessions)) == len(images)
        servers = (one.url, two.url)
        assert sum(total(server, "crosslook_images_encoded_total") for server in servers) == len(images)
        assert [total(server, 'crosslook_errors_total{code="image_not_found"}') for server in servers] == [0, 0]
