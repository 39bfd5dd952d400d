"""``crosslook-server``: what it prints, what it returns, and that a real process answers a real client."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import crosslook
from app import cli
from tests.app.servers import ROOT, serving
from tests.fakes import model as standin

SAY_AT_ITS_END = """if True:
    import atexit, gc, sys
    atexit.register(lambda: print("frozen:", gc.get_freeze_count() > 10_000, "turn:", sys.getswitchinterval()))
"""


def test_a_real_server_answers_the_real_client(tmp_path: Path) -> None:
    """Ready, one question through the SDK, the printed example, and a clean end on SIGTERM. Its modules were not
    searched for garbage, and no thread of Python kept it from its event loop for long."""
    with serving(tmp_path / "log", before=SAY_AT_ITS_END) as server:
        with crosslook.Client(server.url) as client:
            answer = client.answer(ROOT / "examples" / "cat.jpg", "how bright?")
            assert answer.answer.isdigit()
        example = server.log.read_text().partition("Try: ")[2].splitlines()[0]
        result = subprocess.run(shlex.split(example), cwd=ROOT, capture_output=True, text=True, check=True)
        assert '"results":[{"question":"What animal is this?"' in result.stdout
        assert server.terminate() == 0
        assert "Traceback" not in server.log.read_text()
        assert "frozen: True turn: 0.001" in server.log.read_text()


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    """Exit status 1 and a reason, rather than a server that is never ready."""
    settings = "app.settings.Settings(port=0, workers=2)"
    code = f"import sys, app.cli, app.settings; sys.exit(app.cli.run({settings}, loader={standin.FAILING!r}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    said = result.stdout + result.stderr
    assert "Traceback" not in said
    assert said.count("no weights here") == 1  # once, however many workers there are
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("crosslook cannot load its model: ")
    assert "no weights here" in last
    assert "docs/models.md" in last
    assert (ROOT / "docs" / "models.md").is_file()


def test_a_port_in_use_ends_the_server() -> None:
    """Exit status 1 and what to do about it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "app.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in result.stderr
    assert "--port" in result.stderr


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` lists serve, eval and train."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("serve", "eval", "train"))


def test_the_parent_never_imports_torch() -> None:
    """Importing the service loads neither torch nor transformers."""
    code = "import sys, app.cli; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("port", "80000", "less than or equal to 65535"),
        ("log_format", "xml", "'json'"),
        ("workers", "many", "valid integer"),
        ("api_keys", "foo", "NAME:SHA256"),
        ("url_allow_addresses", "10.0.0.0/8,xyz", "'xyz' does not appear to be an IPv4 or IPv6 network"),
        ("device", "gpu", "cuda:N"),
        ("queue_bytes", "1000000", "CROSSLOOK_BODY_BYTES: 29360128 is more than"),
    ],
)
def test_a_wrong_setting_is_named_in_a_line(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, the setting's name and what it may be, rather than a traceback."""
    monkeypatch.setenv(f"CROSSLOOK_{name.upper()}", value)
    assert cli.main(["serve"]) == 2
    error = capsys.readouterr().err
    assert f"CROSSLOOK_{name.upper()}" in error
    assert said in error


def test_a_misspelled_variable_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In the environment and in ``.env``; the client's own variables are none of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("CROSSLOOK_PROT=1\nOTHER=2\nCROSSLOOK_PORT=3\n")
    monkeypatch.setenv("CROSSLOOK_QUEUE_ITEM", "5")
    monkeypatch.setenv("CROSSLOOK_URL", "http://127.0.0.1:8080")
    monkeypatch.setattr(cli, "run", lambda settings: settings.port)
    assert cli.main(["serve"]) == 3
    assert capsys.readouterr().err.splitlines() == [
        "crosslook: CROSSLOOK_PROT is no setting; did you mean CROSSLOOK_PORT?",
        "crosslook: CROSSLOOK_QUEUE_ITEM is no setting; did you mean CROSSLOOK_QUEUE_ITEMS?",
    ]


def test_the_greeting_names_only_what_is_served() -> None:
    """``/docs`` is not, where the settings say so."""
    assert "(API: http://127.0.0.1:80/docs)" in cli.greeting("127.0.0.1", 80)
    assert "docs" not in cli.greeting("127.0.0.1", 80, docs=False)
