"""The page, clicked through in a headless Chromium; its latents, run by Node.

    pip install playwright && apt install chromium
    python -m pytest -m "slow or not slow" tests/test_page.py

Playwright drives the browser that is installed, or the one that the variable CHROMIUM names.
"""

import functools
import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from cpp_session import CppSession
from tiny_models import passing_through

from tfgan_mnist import export
from tfgan_mnist.data import pictures, pixels
from tfgan_mnist.evaluation import classifier
from tfgan_mnist.models import latents

PAGE = Path(export.__file__).parent / "assets" / "page"
MODULES = sorted(path.name for path in PAGE.glob("*.js"))

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


# The files


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node to run JavaScript with")
def test_latents_are_those_of_the_signature(tmp_path):
    seeds, way = [0, 7, -1, 2**31 - 1, -(2**31), 123456], 0.3
    shutil.copy(PAGE / "latents.js", tmp_path / "latents.mjs")
    program = (
        "import { between, draw } from './latents.mjs';"
        f"const drawn = {seeds}.map((seed) => draw(seed, 62));"  # not a whole number of blocks
        f"const way = between(drawn[0], drawn[1], {way});"
        "console.log(JSON.stringify([...drawn, way].map((latent) => Array.from(latent))));"
    )
    command = ["node", "--input-type=module", "--eval", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *drawn, between = np.array(json.loads(done.stdout))

    model = passing_through((2, 31, 1))  # images in [0, 1] that show their latents
    with CppSession(export.export(model, tmp_path / "exports")) as session:
        shown = session.run("sample", seed=seeds)["images"]
    np.testing.assert_allclose(drawn, 2 * shown.reshape(-1, 62) - 1, rtol=0, atol=1e-6)
    on_the_way = latents.interpolate(drawn[0], drawn[1], 11)[3]
    np.testing.assert_allclose(between, on_the_way, rtol=0, atol=1e-6)


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node to run JavaScript with")
def test_nothing_in_the_command_is_the_shells(tmp_path):
    shutil.copy(PAGE / "rest.js", tmp_path / "rest.mjs")
    base, model, label = "http://host/it's;id;/$(id)", "a'b;`id`", "'; id; '"
    program = (
        "import { Server } from './rest.mjs';"
        f"console.log(new Server({json.dumps(base)}).curl({json.dumps(model)}, {[label]}));"
    )
    command = ["node", "--input-type=module", "--eval", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    curl, url, flag, body = shlex.split(done.stdout)
    assert (curl, flag, json.loads(body)) == ("curl", "-d", [label])
    assert url == "http://host/it's;id;/$(id)/v1/models/a'b%3B%60id%60:predict"


def test_nothing_is_loaded_from_elsewhere():
    texts = {name: (PAGE / name).read_text() for name in ("index.html", "style.css", *MODULES)}
    for name in ("index.html", "style.css"):
        assert "//" not in texts[name].replace("// ", ""), name
        assert not re.search(r"\sstyle=|<script>|\son\w+=", texts[name]), "needs a looser CSP"
    found = re.findall(r'(?:src|href|from) ?=? ?"([^"]+)"', "".join(texts.values()))
    assert set(found) >= {"app.js", "style.css", "icon.svg", "./rest.js"}
    assert [name for name in found if not (PAGE / name).is_file()] == []
    ids = re.findall(r'\bid="([^"]+)"', texts["index.html"])
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'element(?:\.(\w+)|\["([\w-]+)"\])', texts["app.js"]))
    assert {a or b for a, b in used} <= set(ids)


def test_the_server_gives_what_the_page_needs(server, exports):
    def get(path):
        with urllib.request.urlopen(server + path) as response:
            return response.headers["Content-Type"], response.read()

    kind, body = get("")
    assert kind.startswith("text/html")
    assert body == (PAGE / "index.html").read_bytes()
    assert get("app.js")[0].startswith("text/javascript")
    assert get("onnx/gan.onnx")[1] == (exports / "gan" / "1.onnx").read_bytes()
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        get("onnx/nope.onnx")
    assert json.load(refused.value)["error"]


# The click-through


def in_browser(test):
    """A minute and a half for all, and a browser that not every machine has."""
    reason = "no Chromium: apt install chromium, or name one in the variable CHROMIUM"
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason=reason)(test))


@pytest.fixture(scope="module")
def server(exports):
    """The address of a server of the exports that ship."""
    serve = pytest.importorskip("tfgan_mnist.serve")
    settings = serve.ServerConfig(
        model_base_path=str(exports), port=0, rest_api_port=0, rest_api_enable_cors_support=True
    )
    with serve.start(settings, free_ports=True) as running:
        yield f"{running.rest_url}/"


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    # Chromium's own sandbox refuses to start for root, whom containers run tests as.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


class Visit:
    """A page in a browser window of its own, as a person meets it: by labels and roles."""

    def __init__(self, browser, url, before=None, **options):
        self.context = browser.new_context(reduced_motion="reduce", **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.urls, self.faults = [], []
        self.page.on("request", lambda request: self.urls.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._hear)
        self.page.add_init_script(
            "window.drawings = [];"
            "document.addEventListener('drawn', (event) => {"
            "  document.documentElement.dataset.drawings = window.drawings.push(event.detail);"
            "});"
        )
        if before:
            before(self.page)
        self.page.goto(url)

    def _hear(self, message):
        if message.type == "error" and "Content Security Policy" in message.text:
            self.faults.append(message.text)

    def field(self, label):
        return self.page.get_by_label(label, exact=True)

    def drawn(self, action=None):
        """The images (N, H, W, C) that the page shows after an action, once all is drawn."""
        seen = self.page.evaluate("window.drawings.length") if action else 0
        if action:
            action()
        # By a selector: the page's policy forbids the evaluation of conditions inside it.
        self.page.wait_for_selector(f"html[data-drawings]:not([data-drawings='{seen}'])")
        self.page.wait_for_selector("[aria-busy=false]")
        assert self.page.get_by_role("alert").count() == 0, self.page.text_content("#alert")
        return np.array(self.page.evaluate("window.drawings.at(-1)"), np.float32)

    def alert(self):
        alert = self.page.get_by_role("alert")
        alert.wait_for()
        return alert.text_content()

    def choose(self, model):
        return self.field("Model").select_option(model)


@pytest.fixture
def visit(server, chromium):
    visits = []

    def begin(url=server, **options):
        visits.append(Visit(chromium, url, **options))
        return visits[-1]

    yield begin
    for each in visits:
        each.context.close()
        assert each.faults == []


def shows(drawn, digits):
    """Whether the classifier reads these digits (N,) in images (N, H, W, C) in [0, 1].

    One may be misread: the generator that ships makes one in a hundred so.
    """
    network = classifier.load("mnist", drawn.shape[1:])
    _, logits = network.features_and_logits(np.round(255 * drawn).astype(np.uint8))
    return logits.shape[0] == len(digits) and np.sum(logits.argmax(-1) != digits) <= 1


@in_browser
def test_it_writes_what_is_asked_for(visit, server):
    person = visit()
    drawn = person.drawn()
    assert drawn.shape == (16, 28, 28, 1)
    assert shows(drawn, [2, 0, 2, 6] * 4)
    label = "The digits 2 0 2 6, 16 images, seed 7"
    assert person.page.get_by_role("img", name=label).is_visible()
    assert "16 images drawn by the server" in person.page.get_by_role("status").first.text_content()
    person.drawn(lambda: person.field("Samples").fill("2"))
    drawn = person.drawn(lambda: person.field("Digits to write").fill("31"))
    assert shows(drawn, [3, 1, 3, 1])
    fresh = person.drawn(lambda: person.page.get_by_role("button", name="Fresh").click())
    assert abs(fresh - drawn).max() > 0.5
    assert {url for url in person.urls if not url.startswith(server)} == set()


@in_browser
@pytest.mark.parametrize("model", ["cdcgan", "dcgan", "gan"])
def test_the_browser_draws_what_the_server_draws(visit, model):
    person = visit()
    person.drawn()
    if model != "cdcgan":
        person.drawn(lambda: person.choose(model))
        assert not person.field("Digits to write").is_visible()
    by_server = person.drawn(lambda: person.field("Seed").fill("2147483640"))  # they wrap
    by_browser = person.drawn(person.field("in this browser").check)
    np.testing.assert_allclose(by_browser, by_server, rtol=0, atol=1e-5)
    walked = person.drawn(lambda: person.field("How far").fill("35"))
    assert abs(walked - by_browser).max() > 0.1
    again = person.drawn(person.field("on the server").check)
    np.testing.assert_allclose(walked, again, rtol=0, atol=1e-5)


@in_browser
def test_it_goes_on_when_the_server_is_gone(visit, server):
    person = visit()
    before = person.drawn()
    person.context.set_offline(True)
    person.field("Seed").fill("8")
    assert f"The server at {server} does not answer" in person.alert()
    person.drawn(person.field("in this browser").check)
    drawn = person.drawn(lambda: person.field("Seed").fill("7"))
    np.testing.assert_allclose(drawn, before, rtol=0, atol=1e-5)
    person.choose("gan")
    assert "cannot be fetched, as its server does not answer" in person.alert()


@in_browser
def test_the_walk_ends_at_the_other_seed(visit):
    person = visit()
    person.drawn()
    end = person.drawn(lambda: person.field("How far").fill("100"))
    person.drawn(lambda: person.field("How far").fill("0"))
    there = person.drawn(lambda: person.field("Seed").fill("1000"))
    np.testing.assert_allclose(end, there, rtol=0, atol=1e-5)


@in_browser
@pytest.mark.parametrize("way", ["0", "50"])
def test_the_command_asks_for_the_same(visit, way):
    person = visit(permissions=["clipboard-read", "clipboard-write"])
    drawn = person.drawn()
    if way != "0":
        drawn = person.drawn(lambda: person.field("How far").fill(way))
    person.page.get_by_role("button", name="Copy").click()
    person.page.get_by_text("Copied").wait_for()
    command = person.page.evaluate("navigator.clipboard.readText()")
    assert command == person.page.text_content("#curl")
    curl, url, flag, body = shlex.split(command)
    assert (curl, flag) == ("curl", "-d")
    with urllib.request.urlopen(url, body.encode()) as response:
        (answer,) = json.load(response).values()
    np.testing.assert_allclose(answer, drawn, rtol=0, atol=1e-6)


@in_browser
def test_the_download_is_the_drawing(visit, tmp_path):
    person = visit()
    drawn = person.drawn()
    with person.page.expect_download() as download:
        person.page.get_by_role("button", name="Download PNG").click()
    assert download.value.suggested_filename == "cdcgan-7.png"
    download.value.save_as(tmp_path / "digits.png")
    picture = pictures.read(tmp_path / "digits.png")[0]
    expected = pixels.grid(np.round(255 * drawn).astype(np.uint8), columns=4, padding=0)
    np.testing.assert_array_equal(picture[..., :1], pixels.enlarge(expected, 4))


def busy(page):
    answer = {"status": 429, "json": {"error": "the queue is full."}}
    page.route("**/v1/models/*:predict", lambda route: route.fulfill(**answer))


def a_page(page):
    answer = {"status": 502, "body": "<h1>Bad Gateway</h1>"}
    page.route("**/v1/models/*:predict", lambda route: route.fulfill(**answer))


def no_onnx(page):
    page.route("**/onnx/*", lambda route: route.fulfill(status=404, body="{}"))


@in_browser
@pytest.mark.parametrize(
    ("before", "field", "value", "message"),
    [
        (
            busy,
            None,
            None,
            "The server is busy; try again in a moment. It says: the queue is full.",
        ),
        (a_page, None, None, "502 with something else than JSON"),
        (
            no_onnx,
            "in this browser",
            None,
            "no ONNX file of “cdcgan”: python -m tfgan_mnist.export",
        ),
        (None, "Its name", "nope/../x", "has no model “nope/../x”."),
        (None, "Digits to write", "2o26", "expected digits, such as 2026; received “2o26”"),
        (None, "Digits to write", "", "Digits to write"),
        (None, "Digits to write", "3, 11", "The server refuses (400): "),
        (None, "Samples", "100", "Expected at most 100 digits at a time; these are 400."),
        (None, "Seed", "-1", "Seed: Value must be greater than or equal to 0."),
        (None, "Seed", "1.5", "Seed: "),
    ],
)
def test_a_clear_message(visit, before, field, value, message):
    person = visit(before=before)
    if before in (None, no_onnx):
        person.drawn()
    if field == "Its name":
        person.choose("another…")
        person.field(field).fill(value)
        person.field(field).press("Enter")
    elif value is not None:
        person.field(field).fill(value)
    elif field:
        person.field(field).check()
    assert message in person.alert()
    # And it goes on.
    person.page.unroute_all()
    person.choose("dcgan")
    if value in ("-1", "1.5"):
        person.field("Seed").fill("7")
    person.field("on the server").check()
    person.page.get_by_role("alert").wait_for(state="hidden")


@in_browser
def test_a_wrong_label_in_the_browser(visit):
    person = visit()
    person.drawn()
    person.drawn(person.field("in this browser").check)
    person.field("Digits to write").fill("3, 10")
    assert person.alert() == "A label is none of the model's classes."


@in_browser
def test_by_keyboard(visit):
    person = visit()
    person.drawn()
    keyboard = person.page.keyboard
    visited = []
    for _ in range(40):
        keyboard.press("Tab")
        here = "document.activeElement"
        visited.append(person.page.evaluate(f"{here}.id || {here}.ariaLabel || {here}.value || ''"))
        if visited[-1] == "copy":
            break
    expected = ["model", "server", "text", *"0123456789", "Delete the last digit"]
    expected += ["count", "seed", "fresh", "way", "end", "download"]
    assert [each for each in visited if each] == [*expected, "copy"]
    person.field("Digits to write").focus()
    keyboard.press("Control+A")
    drawn = person.drawn(lambda: keyboard.press("9"))
    assert shows(drawn, [9] * 4)
    person.page.get_by_role("button", name="5", exact=True).focus()
    drawn = person.drawn(lambda: keyboard.press("Space"))
    assert shows(drawn, [9, 5] * 4)
    person.field("How far").focus()
    person.drawn(lambda: keyboard.press("ArrowRight"))
    assert person.page.text_content("#way-shown") == "1 %"
    person.field("on the server").focus()
    person.drawn(lambda: keyboard.press("ArrowRight"))
    assert person.field("in this browser").is_checked()


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(visit, scheme):
    phone = {"viewport": {"width": 320, "height": 568}, "is_mobile": True, "has_touch": True}
    person = visit(color_scheme=scheme, **phone)
    person.drawn()
    assert person.page.evaluate("document.documentElement.scrollWidth") == 320
    for button in person.page.get_by_role("button").all():
        box = button.bounding_box()
        assert box["width"] >= 40, box
        assert box["height"] >= 44, box
    person.drawn(lambda: person.page.get_by_role("button", name="5", exact=True).tap())
    assert person.field("Digits to write").input_value() == "20265"
    ground = person.page.evaluate("getComputedStyle(document.body).backgroundColor")
    bright = np.mean([int(number) for number in re.findall(r"\d+", ground)]) > 128
    assert bright == (scheme == "light")


@in_browser
def test_it_asks_another_server(visit, server):
    """As in front of a real TensorFlow Serving, beside which the page lies in some web server."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=PAGE)
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        person = visit(f"http://127.0.0.1:{web.server_port}/?server={server.rstrip('/')}")
        assert shows(person.drawn(), [2, 0, 2, 6] * 4)
        web.shutdown()
