"""`flowbind demo`: a page on which a model is tried, in a browser on this machine."""

import argparse
import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

from flowbind.cli.parser import Parser, path, whole
from flowbind.libraries import Extra, require


def run(verb: str, arguments: list[str]) -> None:
    """Serves the page until Ctrl-C."""
    parser = Parser(
        verb,
        "Serves a page on which a model is tried: any sources, any targets. On this machine alone, "
        "until Ctrl-C.",
    )
    parser.add_argument(
        "model",
        help="folder of a released model, as `flowbind fit` writes it, or "
        "hf:OWNER/NAME[@REVISION]",
    )
    parser.add_argument(
        "--examples",
        type=path,
        metavar="MANIFEST",
        help="samples to begin with; without it, the test split of the run in whose folder the "
        "model lies, where that is here",
    )
    parser.add_argument(
        "--port",
        type=whole(1),
        help="port of the page; without it, the first free one from 7860 on",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address under which the page is reached; any other opens it to other machines, who "
        "need no password",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    options = parser.parse_args(arguments)

    _check_free(options.host, options.port)
    with TemporaryDirectory(prefix="flowbind-demo-") as folder:
        _serve(options, Path(folder))


def _serve(options: argparse.Namespace, folder: Path) -> None:
    """Serves the page of a model until Ctrl-C.

    Args:
        options: What was given.
        folder: Folder of all files of the page.
    """
    # Read when gradio is imported, which keeps files of its own, too.
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    require("gradio", "flowbind demo", Extra("demo"))
    from flowbind.demo.examples import beside
    from flowbind.demo.server import Server
    from flowbind.generation import find_device
    from flowbind.release import load

    model = load(options.model, find_device(options.device))
    examples = options.examples or beside(Path(options.model))
    server = Server(
        model,
        options.model,
        folder,
        examples=examples,
        host=options.host,
        port=options.port,
    )
    print(f"{server.url} (Ctrl-C ends it)", flush=True)
    try:
        server.wait()
    except KeyboardInterrupt as stop:
        if stop.args:  # something else than Ctrl-C, which is how a page ends
            raise
    finally:
        server.close()


def _check_free(host: str, port: int | None) -> None:
    """Refuses an address that a page cannot have, before anything is loaded.

    Raises:
        ValueError: it is no address of this machine, or the port is taken.
    """
    try:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port or 0))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"no page at {host}, port {port or 'any'}: {reason}; give another --port or --host"
        ) from None
