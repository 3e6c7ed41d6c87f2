"""The demo page as a visitor sees it: the example runs in a process, and Chromium opens its page."""

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["Chromium"]
SECONDS = 120  # until a server starts, or the first image of a network is classified

pytestmark = [
    pytest.mark.once,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}; pip install -e '.[demo]' playwright"),
]


@pytest.fixture
def address(tmp_path):
    """Serves the page, started in another folder. It must not print a stack trace."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = [sys.executable, str(ROOT / "examples" / "11_demo_page.py"), "--port", str(port)]
    with open(tmp_path / "log.txt", "w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until_open(port, process)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


def wait_until_open(port, process):
    for _ in range(SECONDS):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, "the example stopped"
        time.sleep(1)
    pytest.fail(f"nothing listens on port {port}")


@pytest.fixture
def page(address):
    """The page in a browser. It must not log errors, and not request anything from other servers."""
    from playwright.sync_api import sync_playwright

    errors, elsewhere = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: elsewhere.append(request.url))
        page.goto(address)
        yield page
        browser.close()
    assert errors == []
    assert [url for url in elsewhere if not url.startswith((address, "data:", "blob:"))] == []


def test_a_visitor_classifies_an_image_and_looks_at_masks(page, tmp_path):
    from playwright.sync_api import expect

    expect.set_options(timeout=1000 * SECONDS)
    best = page.get_by_test_id("label-output-value")
    masks, captions = page.locator("#masks img"), page.locator("#masks")
    expect(best).to_be_visible()  # of the first sample, without a click
    choose(page, "Network and weights", "CifarResidualAttention56/cifar10_v2")

    upload(page, ROOT / "examples" / "images" / "dog-0012.png")
    expect(best).to_have_text("dog")
    expect(captions).to_contain_text("stage 3, module 1, channel")
    expect(masks).to_have_count(9)
    assert all(is_drawn(image) for image in masks.all())

    choose(page, "Attention module", "stage 2, module 1")
    expect(masks).to_have_count(3)
    page.get_by_label("mean over channels").check()
    expect(captions).to_contain_text("stage 2, module 1, mean")
    expect(masks).to_have_count(1)
    page.get_by_label("channels that support the prediction").check()
    expect(masks).to_have_count(3)

    (tmp_path / "broken.png").write_bytes(b"not an image")
    upload(page, tmp_path / "broken.png")
    expect(page.locator("#message")).to_contain_text("Expected broken.png to be an image that can be decoded")
    expect(masks).to_have_count(0)
    expect(best).to_be_hidden()


def choose(page, label, option):
    page.get_by_label(label).click()
    page.get_by_role("option", name=option).click()


def upload(page, path):
    page.locator("#image input[type=file]").set_input_files(path)


def is_drawn(image):
    image.scroll_into_view_if_needed()
    return image.evaluate("image => image.decode().then(() => image.naturalWidth)") >= 320
