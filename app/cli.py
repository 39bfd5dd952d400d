"""``crosslook-server serve | batch | key | eval | train``."""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import logging
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import ValidationError

from app import batch
from app.auth import make_key
from app.connections import connection_class
from app.engine.allocator import return_large_blocks
from app.errors import RequestError
from app.logs import configure_logging
from app.main import create_app
from app.settings import Settings, unknown_variables

logger = logging.getLogger(__name__)

_MODELS = "docs/models.md"
_LINGER = 0.5  # seconds in which requests on open connections still get their 503
_TURN = 0.001  # seconds that a thread of Python may make the event loop wait; Python's own default is five times that
_DESCRIPTORS = 200  # that the server needs beside those of connections: workers, fetches, libraries
_EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] in (["eval"], ["train"]):  # they parse their own options, and need torch
        module = {"eval": "model.evaluation.evaluate", "train": "model.training.train"}[arguments[0]]
        command = importlib.import_module(module)
        return int(command.main(arguments[1:]) or 0)
    parser = argparse.ArgumentParser(prog="crosslook-server", description="Answers questions about images over HTTP.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve the model (every other setting: CROSSLOOK_*, docs/operations.md)")
    serve.add_argument("--host", help="address to listen on")
    serve.add_argument("--port", type=int, help="port to listen on; 0 picks a free one")
    serve.add_argument("--model", help="compact, tiny, a folder or a hub name")
    serve.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    serve.add_argument("--workers", type=int, help="worker processes, each with a model")
    serve.add_argument("--threads", type=int, help="CPU threads of each worker")
    batch.add_arguments(commands.add_parser("batch", help="answer a file of requests (JSONL) into another"))
    key = commands.add_parser("key", help="make an API key: what its owner sends, and what the server is told")
    key.add_argument("name", help="letters, digits, dots, dashes and underscores")
    commands.add_parser("eval", help="accuracy on a data set, in the documented format", add_help=False)
    commands.add_parser("train", help="train the compact model", add_help=False)
    options = vars(parser.parse_args(arguments))
    command = options.pop("command")
    if command == "key":
        return _print_key(options["name"])
    batched = batch.take_arguments(options) if command == "batch" else None
    try:
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        for wrong in error.errors(include_input=False, include_url=False):
            name, message = str(wrong["loc"][0]), wrong["msg"].removeprefix("Value error, ")
            print(f"crosslook: CROSSLOOK_{name.upper()}: {message}", file=sys.stderr)
        print("docs/operations.md lists every setting.", file=sys.stderr)
        return 2
    for message in unknown_variables():
        print(f"crosslook: {message}", file=sys.stderr)
    if batched is not None:
        configure_logging("warning", settings.log_format)
        return _batch_on_ray(settings, batched) if batched.ray is not None else batch.main(settings, batched)
    return run(settings)


def _batch_on_ray(settings: Settings, arguments: batch.Arguments) -> int:
    try:
        from app import ray_batch  # an extra, and seconds to import
    except ImportError as error:
        print(f"crosslook: --ray needs the extra ray-data: {error}", file=sys.stderr)
        return 2
    return ray_batch.main(settings, arguments)


def _print_key(name: str) -> int:
    try:
        key, pair = make_key(name)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"The key, shown this once: {key}\nFor the server: CROSSLOOK_API_KEYS={pair}")
    return 0


def run(settings: Settings, **options: Any) -> int:
    """Serve until SIGTERM or SIGINT; 1 when the model cannot be loaded or the address is taken. ``options`` go to
    `create_app`."""
    configure_logging(settings.log_level, settings.log_format)
    return_large_blocks()
    sys.setswitchinterval(_TURN)
    _allow_descriptors(settings.connections + _DESCRIPTORS)
    app = create_app(settings, **options)

    def refused(error: RequestError) -> None:
        app.state.metrics.finished("other", error.status, error.code, 0.0)

    config = uvicorn.Config(
        app,
        http=connection_class(settings, refused),
        ws="none",
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        timeout_graceful_shutdown=int(settings.drain_seconds) or 1,
    )
    # uvicorn raises the signals that ended it again when it is done; that a server was told to stop is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        sockets = [config.bind_socket()]
    except SystemExit:  # uvicorn logged the reason
        address = f"{settings.host} port {settings.port}"
        print(f"crosslook cannot listen on {address}: the log says why. --port N takes another.", file=sys.stderr)
        return 1
    for each in sockets:
        each.set_inheritable(False)  # uvicorn's is: a worker that held it would keep a dead port open
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(_serve(_Server(config), config, sockets))


def _allow_descriptors(wanted: int) -> None:
    """Raise the soft limit of open files, often 1024, to what the connections and the server's own may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        logger.warning("only %d files may be open, of %d wanted: CROSSLOOK_CONNECTIONS is too many", hard, wanted)
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """A server that says no before it hangs up: uvicorn's own shutdown resets connections whose request is still on
    its way, which leaves their clients without an answer."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, refuse what comes on open connections, then let the accepted requests finish."""
        self.config.app.state.engine.draining = True  # type: ignore[union-attr]
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LINGER)
        await super().shutdown(sockets)


async def _serve(server: uvicorn.Server, config: uvicorn.Config, sockets: list[socket.socket]) -> int:
    serving = asyncio.create_task(server.serve(sockets))
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.02)
    if serving.done():
        await serving
        return 1
    engine = config.app.state.engine  # type: ignore[union-attr]
    ready = asyncio.create_task(engine.wait_ready())
    await asyncio.wait((serving, ready), return_when=asyncio.FIRST_COMPLETED)
    failed = ready.done() and not ready.result()
    if ready.done() and not failed:
        # Modules live as long as the process. To search them for garbage holds up every request, now and then.
        gc.collect()
        gc.freeze()
        host, port = sockets[0].getsockname()[:2]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
        print(greeting(shown, port, docs=engine.settings.docs), flush=True)
    elif failed:
        server.should_exit = True
    ready.cancel()
    await serving
    if failed:  # the last line of all
        reason = (engine.failure or "").strip().rstrip(".")
        message = f"crosslook cannot load its model: {reason}. {_MODELS} says which models it serves, and how."
        print(message, file=sys.stderr, flush=True)
    return 1 if failed else 0


def greeting(host: str, port: int, *, docs: bool = True) -> str:
    """What to say when the service is up: where it is, and one example to paste."""
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    image = next(iter(sorted(_EXAMPLES.glob("cat.*")) or sorted(_EXAMPLES.glob("*.[jp][pn]g"))), Path("image.jpg"))
    try:
        shown = image.relative_to(Path.cwd())
    except ValueError:
        shown = image
    return (
        f"crosslook is up: {url}{f'  (API: {url}/docs)' if docs else ''}\n"
        f"Try: curl -s -F image=@{shown} -F 'question=What animal is this?' -F maps=none {url}/v1/answer"
    )


if __name__ == "__main__":
    sys.exit(main())
