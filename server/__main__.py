"""`maskline serve`: serves bundles over HTTP.

    python -m server [BUNDLE | FOLDER_OF_BUNDLES ...] [--port 8000] [--engine auto] ...

Exit status: 0 after a stop that was asked for, 1 when the port cannot be had, 2 for a bad setting or a bad bundle.
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from server import process

if TYPE_CHECKING:
    from server.models import Models
    from server.settings import Settings

OK, PORT_TAKEN, BAD_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    process.prepare()
    settings = _settings(_parser().parse_args(argv))
    if settings is None:
        return BAD_USAGE
    _log(settings)
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        return _fail(_cannot_listen(settings, error), PORT_TAKEN)
    with listener:
        return _serve(settings, listener)


def _serve(settings: Settings, listener: socket.socket) -> int:
    from server.app import create_app
    from server.contract.errors import BundleError
    from server.graceful import serve
    from server.models import Models

    try:
        models = Models.open(settings)
    except BundleError as error:
        return _fail(str(error), BAD_USAGE)
    _announce(settings, models, listener)
    serve(create_app(settings, models), models, listener, settings)
    return OK


def _parser() -> argparse.ArgumentParser:
    """A flag for each setting; what is not given stays away, so that the variables count."""
    from server.settings import ENV_PREFIX, Settings

    parser = argparse.ArgumentParser(
        prog="maskline serve",
        description="Serves models over HTTP.",
        epilog=f"Each option is also a variable, {ENV_PREFIX}PORT for --port; lists are separated by commas.",
        argument_default=argparse.SUPPRESS,
    )
    for name, field in Settings.model_fields.items():
        default = "" if field.default in ((), "") else f" [{field.default}]"
        text = f"{field.description}{default}".replace("%", "%%")
        if name == "models":
            parser.add_argument(name, nargs="*", metavar="BUNDLE", help=text)
            continue
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else None
        metavar = None if choices else name.rpartition("_")[2].upper()
        parser.add_argument(f"--{name.replace('_', '-')}", choices=choices, metavar=metavar, help=text)
    return parser


def _settings(arguments: argparse.Namespace) -> Settings | None:
    from pydantic import ValidationError

    from server.settings import Settings

    given: dict[str, Any] = {name: value for name, value in vars(arguments).items() if value != []}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        source = f"--{name.replace('_', '-')}" if name in given else f"MASKLINE_{name.upper()}"
        _fail(f"{source}: {first['msg']}, not {first['input']!r}.", BAD_USAGE)
        return None


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let two servers share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def _cannot_listen(settings: Settings, error: OSError) -> str:
    where = f"port {settings.port} of {settings.host}"
    other = settings.port + 1 if settings.port < 65535 else 8000
    hint = f"Choose another port: make serve PORT={other}, or maskline serve --port {other}."
    return f"Cannot listen on {where}: {error.strerror or error}. {hint}"


def _announce(settings: Settings, models: Models, listener: socket.socket) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    lines = [f"{model.card.name} {model.card.version}: engine {model.description}" for model in models]
    lines.append(f"Maskline serves http://{host}:{listener.getsockname()[1]}{settings.root_path} (stop with Ctrl+C)")
    for line in lines:
        _say(line, settings)


def _say(line: str, settings: Settings) -> None:
    """For people on stdout; where a machine reads the logs, as one of them."""
    if settings.log_format == "json":
        logging.getLogger("server").info(line)
    else:
        print(line, flush=True)


def _log(settings: Settings) -> None:
    from server import logs

    logs.configure(settings.log_level, settings.log_format)


def _fail(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
