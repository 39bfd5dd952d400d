"""What an operator may set, and what stops the server before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.auth import make_key
from app.settings import Settings, unknown_variables


def refused(**values: object) -> list[str]:
    """The settings that are at fault."""
    with pytest.raises(ValidationError) as caught:
        Settings(_env_file=None, **values)
    return [str(error["loc"][0]) for error in caught.value.errors()]


@pytest.mark.parametrize("name", ["cors_origins", "url_allow_addresses", "api_keys"])
def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Spaces around the parts do not count, nor do empty parts."""
    parts = {
        "cors_origins": ["https://a.org", "*"],
        "url_allow_addresses": ["10.1.2.0/24", "fd00::/8"],
        "api_keys": [make_key("ann")[1], make_key("bob")[1]],
    }[name]
    monkeypatch.setenv(f"CROSSLOOK_{name.upper()}", f" {parts[0]} ,, {parts[1]},")
    assert getattr(Settings(_env_file=None), name) == parts
    monkeypatch.setenv(f"CROSSLOOK_{name.upper()}", " ")
    assert getattr(Settings(_env_file=None), name) == []


@pytest.mark.parametrize("network", ["10.1.2.3/24", "10.1.2.0/33", "localhost", "10.1.2", "fd00::/129"])
def test_networks_of_a_wrong_form_are_refused(network: str) -> None:
    """Those with bits behind the prefix too: what was meant is not clear."""
    assert refused(url_allow_addresses=["127.0.0.1/32", network]) == ["url_allow_addresses"]


def test_keys_of_a_wrong_form_are_refused() -> None:
    assert refused(api_keys=["a-key-without-its-name"]) == ["api_keys"]


def test_a_body_must_fit_the_queue() -> None:
    """One larger than the queue would be refused for ever; a wrong queue is one error, not two."""
    assert Settings(_env_file=None, body_bytes=4096, queue_bytes=4096).body_bytes == 4096
    assert refused(body_bytes=4097, queue_bytes=4096) == ["body_bytes"]
    assert refused(queue_bytes=4096) == ["body_bytes"], "the default is compared as well"
    assert refused(queue_bytes=0) == ["queue_bytes"]


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices(device: str) -> None:
    assert Settings(_env_file=None, device=device).device == device


@pytest.mark.parametrize("device", ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:1x", "CUDA", "cuda:0,cuda:1"])
def test_devices_that_there_are_not(device: str) -> None:
    assert refused(device=device) == ["device"]


def test_settings_do_not_change_while_the_server_runs() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings(_env_file=None).port = 1  # type: ignore[misc]


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is neither in one nor in the other has its default."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("CROSSLOOK_PORT=1\nCROSSLOOK_QUESTIONS=7\nOTHER=2\n")
    monkeypatch.setenv("CROSSLOOK_PORT", "2")
    settings = Settings()
    assert (settings.port, settings.questions, settings.url_redirects) == (2, 7, 3)


def test_a_misspelled_variable_has_its_nearest_setting_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In any letters, for they count as little as with settings; one that is near to none is named alone."""
    monkeypatch.chdir(tmp_path)
    for name in ("crosslook_cache_byte", "CROSSLOOK_XYZ", "crosslook_port", "CROSSLOOK_API_KEY", "MY_CROSSLOOK_PROT"):
        monkeypatch.setenv(name, "1")
    assert unknown_variables() == [
        "CROSSLOOK_XYZ is no setting",
        "crosslook_cache_byte is no setting; did you mean CROSSLOOK_CACHE_BYTES?",
    ]
