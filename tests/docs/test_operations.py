"""docs/operations.md says what the code does."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from app import cli
from app.auth import Keys
from app.settings import Settings
from crosslook import fonts
from crosslook.errors import CODES
from docs import make_operations as operations

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def test_the_tables_have_not_drifted() -> None:
    """Run ``python -m docs.make_operations docs/operations.md`` when this fails."""
    page = PAGE.read_text(encoding="utf-8")
    assert operations.render(page) == page
    for name in operations.TABLES:
        assert f"<!-- begin {name} -->" in page


def test_every_setting_code_and_variable_named_in_the_text_exists() -> None:
    """Prose goes stale too."""
    page = PAGE.read_text(encoding="utf-8")
    variables = {f"CROSSLOOK_{name.upper()}" for name in Settings.model_fields}
    variables.add(fonts.VARIABLE)  # the client's too, so it is no setting of the server
    assert set(re.findall(r"CROSSLOOK_[A-Z_]+", page)) == variables
    assert set(CODES) <= set(re.findall(r"`(\w+)`", page))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, lists by comma, and bounds."""
    monkeypatch.setenv("CROSSLOOK_PORT", "1234")
    monkeypatch.setenv("CROSSLOOK_CORS_ORIGINS", "https://a.org, https://b.org")
    settings = Settings(_env_file=None)
    assert settings.port == 1234
    assert settings.cors_origins == ["https://a.org", "https://b.org"]
    monkeypatch.setenv("CROSSLOOK_PORT", "70000")
    with pytest.raises(ValueError, match="port"):
        Settings(_env_file=None)


def test_no_setting_of_the_tests_machine_leaks_in() -> None:
    """The tests assume defaults."""
    assert not [name for name in os.environ if name.startswith("CROSSLOOK_")]


def test_the_key_command_prints_a_pair_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    """The printed setting admits the printed key."""
    assert cli.main(["key", "ann"]) == 0
    output = capsys.readouterr().out
    key, pair = re.search(r"ck_\S+", output), re.search(r"CROSSLOOK_API_KEYS=(\S+)", output)
    assert key is not None
    assert pair is not None
    assert Keys([pair[1]]).caller(f"Bearer {key[0]}") == "ann"
    for wrong in ("no spaces", "a:b,c", ""):
        assert cli.main(["key", wrong]) == 2
        error = capsys.readouterr().err
        assert "the name of an API key" in error
        assert "hexadecimal" not in error
