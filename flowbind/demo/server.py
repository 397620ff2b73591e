"""The server of the page: on this machine alone, within limits, and asking nothing of any other."""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Read when gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from starlette.middleware import Middleware

from flowbind.demo.examples import Example, collect
from flowbind.demo.page import STYLE, Page
from flowbind.exhibit import script
from flowbind.generation import Model

LARGEST = "64mb"  # of a file that is handed over
WAITING = 16  # requests at a time
FONTS = ("system-ui", "sans-serif")
MONOSPACED = ("ui-monospace", "monospace")

# Browsers then take nothing from another machine, whatever the page or its libraries say.
POLICY = (
    b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    b"frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)


class SelfContained:
    """Middleware that adds `POLICY` to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"content-security-policy", POLICY))
            await send(message)

        await self.app(scope, receive, send_with_policy)


class Server:
    """A page that is served until it is closed.

    Args:
        model: Model that is tried.
        title: Name of it on the page.
        folder: Folder that is served, and nothing else: of examples, and of what is handed over.
        examples: Manifest of samples to begin with.
        host: Address of this machine under which the page is reached.
        port: Port; the first free one from 7860 on if None.

    Raises:
        OSError: no such manifest, or the port is taken.
        ValueError: the manifest is none.
    """

    def __init__(
        self,
        model: Model,
        title: str,
        folder: Path,
        examples: Path | None = None,
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        shown: Mapping[str, Sequence[Example]] = {}
        if examples:
            shown = collect(examples, model.modalities, folder)

        self.blocks = Page(model, shown).build(title)
        self.blocks.queue(max_size=WAITING, default_concurrency_limit=1)
        _, self.url, _ = self.blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=LARGEST,
            allowed_paths=[str(folder)],
            app_kwargs={"middleware": [Middleware(SelfContained)]},
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            theme=gr.themes.Default(font=FONTS, font_mono=MONOSPACED),
            css=STYLE,
            head=script(),
        )

    def wait(self) -> None:
        """Serves until an interrupt, which Gradio's own way of waiting would keep to itself."""
        threading.Event().wait()

    def close(self) -> None:
        """Ends it."""
        self.blocks.close(verbose=False)
