"""The report in a real browser, at the widths of a phone and of a desk."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from commands import call

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FOUND = next((path for name in BROWSERS if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(FOUND is None, reason=f"no browser is there: none of {', '.join(BROWSERS)}"),
]
# A window has a least width, which a phone's is below: the page is looked at in a frame of its width.
HARNESS = """<!DOCTYPE html><title>harness</title>
<iframe id="page" src="page.html" style="border: 0; width: WIDTHpx; height: 900px"></iframe>
<script>
const frame = document.getElementById("page");
frame.onload = () => {
  const seen = frame.contentWindow, page = seen.document;
  const moved = [...page.querySelectorAll(".scrub")].map((figure) => {
    const slider = figure.querySelector("input"), image = figure.querySelector(".frame");
    const look = (value) => {
      slider.value = value;
      slider.dispatchEvent(new seen.Event("input"));
      return [image.style.backgroundPosition, figure.querySelector("output").textContent];
    };
    const box = image.getBoundingClientRect();
    return { first: look(0), last: look(slider.max), box: [box.width, box.height] };
  });
  const images = [...page.images].map((image) => [image.alt, image.naturalWidth, image.clientWidth]);
  document.body.dataset.found = JSON.stringify({
    errors: seen.errors, width: seen.innerWidth, content: page.documentElement.scrollWidth, moved, images,
    headings: [...page.querySelectorAll("h2")].map((title) => title.textContent),
  });
};
</script>"""
LISTEN = """<script> var errors = []; window.onerror = (message) => { errors.push(message); };
window.addEventListener("error", (event) => { errors.push(String(event.target.src || event.message)); },
true); </script>"""


class Quiet(SimpleHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module", params=["digits", "moons"])
def place(request, tmp_path_factory):
    """A folder with the report of a short comparison, served on this machine."""
    folder = tmp_path_factory.mktemp("site")
    answer = call(
        *("compare", "--data", request.param, "--out", folder / "runs", "--steps", 30, "--n", 40),
        *("--quality", 60, "--importance-samples", 16, "--ddpm.T", 50, "--device", "cpu"),
    )
    assert answer.status == 0, answer.err
    text = (folder / "runs" / "report.html").read_text(encoding="utf-8")
    assert text.count("<head>") == 1
    (folder / "page.html").write_text(text.replace("<head>", f"<head>{LISTEN}"), encoding="utf-8")
    Quiet.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("width", [390, 1280])
def test_it_can_be_read_and_moved(place, width, tmp_path):
    folder, address = place
    (folder / f"{width}.html").write_text(HARNESS.replace("WIDTH", str(width)))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--window-size=1400,1000",
    ]
    ended = subprocess.run(
        [FOUND, *options, "--virtual-time-budget=8000", "--dump-dom", f"{address}/{width}.html"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    match = re.search(r'data-found="(.*?)"', ended.stdout)
    assert match is not None, ended.stdout[-500:] + ended.stderr[-500:]
    found = json.loads(html.unescape(match.group(1)))
    assert found["errors"] == []
    assert found["width"] == width
    assert found["content"] <= width
    assert found["images"]
    for description, natural, shown in found["images"]:
        assert natural > 0, description
        assert 0 < shown <= width, description
    assert found["moved"]
    for scrub in found["moved"]:
        assert scrub["first"][0].startswith("0%")
        assert scrub["last"][0].startswith("100%")
        assert scrub["first"][1] != scrub["last"][1]
        assert min(scrub["box"]) > 100
    assert "Comparison" in found["headings"]
    # Nothing but the page was asked for.
    assert {path for path in Quiet.asked if path != "/favicon.ico"} <= {
        "/390.html",
        "/1280.html",
        "/page.html",
    }
