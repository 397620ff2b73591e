"""A real browser for the tests that look at pages: headless Chromium, as Debian packages it."""

import shutil
from contextlib import contextmanager

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 240  # that a busy machine may take


@contextmanager
def opened(url, asked=None):
    """A page in a browser; skips the test where there is none.

    Args:
        url: Address of the page.
        asked: List that receives every address that the page asks for.
    """
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api")

    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(SECONDS * 1000)
        if asked is not None:
            page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        try:
            yield page
        finally:
            browser.close()


# Whether a recording can be played, once the browser knows, and how long it is.
LENGTH = """async (sound) => {
  if (sound.readyState < 1) await new Promise((ok, no) => { sound.onloadedmetadata = ok; sound.onerror = no; sound.load() });
  return sound.duration;
}"""
# Bytes of what a cloud's element has drawn, alpha included.
PIXELS = """(cloud) => {
  const canvas = cloud.querySelector("canvas");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return [data.some((v) => v > 0), Array.from(data).reduce((h, v) => (h * 31 + v) | 0, 7)];
}"""
