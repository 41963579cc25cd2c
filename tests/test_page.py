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
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from cpp_session import CppSession
from tiny_models import passing_through, tiny

from tfgan_mnist import cli, export
from tfgan_mnist.data import pictures, pixels
from tfgan_mnist.evaluation import classifier
from tfgan_mnist.exports import saved_model
from tfgan_mnist.models import latents

PAGE = Path(export.__file__).parent / "assets" / "page"
MODULES = sorted(path.name for path in PAGE.glob("*.js"))

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


# The files


def node(folder, module, program):
    """What a program prints that imports one of the page's modules as `./module.mjs`."""
    if shutil.which("node") is None:
        pytest.skip("no Node to run JavaScript with")
    shutil.copy(PAGE / f"{module}.js", folder / "module.mjs")
    command = ["node", "--input-type=module", "--eval", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_latents_are_those_of_the_signature(tmp_path):
    seeds, way = [0, 7, -1, 2**31 - 1, -(2**31), 123456], 0.3
    program = (
        "import { between, draw } from './module.mjs';"
        f"const drawn = {seeds}.map((seed) => draw(seed, 62));"  # not a whole number of blocks
        f"const way = between(drawn[0], drawn[1], {way});"
        "console.log(JSON.stringify([...drawn, way].map((latent) => Array.from(latent))));"
    )
    *drawn, between = np.array(json.loads(node(tmp_path, "latents", program)))

    model = passing_through((2, 31, 1))  # images in [0, 1] that show their latents
    with CppSession(saved_model.export(model, tmp_path / "exports")) as session:
        shown = session.run("sample", seed=seeds)["images"]
    np.testing.assert_allclose(drawn, 2 * shown.reshape(-1, 62) - 1, rtol=0, atol=1e-6)
    on_the_way = latents.interpolate(drawn[0], drawn[1], 11)[3]
    np.testing.assert_allclose(between, on_the_way, rtol=0, atol=1e-6)


def test_nothing_in_the_command_is_the_shells(tmp_path):
    base, model, label = "http://host/it's;id;/$(id)", "a'b;`id`", "'; id; '"
    program = (
        "import { Server } from './module.mjs';"
        f"const server = new Server({json.dumps(base)});"
        f"console.log(server.curl({json.dumps(model)}, {[label]}));"
    )
    curl, url, flag, body = shlex.split(node(tmp_path, "rest", program))
    assert (curl, flag, json.loads(body)) == ("curl", "-d", [label])
    assert url == "http://host/it's;id;/$(id)/v1/models/a'b%3B%60id%60:predict"


def test_nothing_is_loaded_from_elsewhere():
    texts = {name: (PAGE / name).read_text() for name in ("index.html", "style.css", *MODULES)}
    links = r'<a href="https://[^"]+">'
    texts["index.html"], number = re.subn(links, "<a>", texts["index.html"])
    assert number > 2
    for name in ("index.html", "style.css"):
        assert "//" not in texts[name], name
        assert not re.search(r"\sstyle=|<script>|\son\w+=", texts[name]), "needs a looser CSP"
    found = re.findall(r'(?:src|href|from) ?=? ?"([^"]+)"', "".join(texts.values()))
    assert set(found) >= {"app.js", "style.css", "icon.svg", "./rest.js"}
    assert [name for name in found if not (PAGE / name).is_file()] == []
    ids = re.findall(r'\bid="([^"]+)"', texts["index.html"])
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'element(?:\.(\w+)|\["([\w-]+)"\])', texts["app.js"]))
    assert {a or b for a, b in used} <= set(ids)


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


@pytest.fixture
def web_server():
    """Serves folders as `python -m http.server` does."""
    running = []

    def begin(folder):
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        handler.func.log_message = lambda *_: None
        running.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_port}/"

    yield begin
    for each in running:
        each.shutdown()
        each.server_close()


class Visit:
    """A page in a browser window of its own, as a person meets it: by labels and roles."""

    def __init__(self, browser, url, before=None, **options):
        self.context = browser.new_context(**{"reduced_motion": "reduce"} | options)
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

    def button(self, name):
        return self.page.get_by_role("button", name=name)

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

    def open(self, title):
        self.page.locator("summary", has_text=title).click()
        return self

    def choose(self, model):
        return self.field("Model").select_option(model)

    def shown(self, selector="#sheet canvas"):
        """How many canvases there are, and what is on them."""
        script = "(all) => all.map((each) => each.toDataURL())"
        return self.page.eval_on_selector_all(selector, script)


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
    network = classifier.read(classifier.folder_of("mnist", drawn.shape[1:]))
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
    assert len(person.shown()) == 16
    person.open("Settings").drawn(lambda: person.field("Lines").fill("2"))
    drawn = person.drawn(lambda: person.field("Your number").fill("31"))
    assert shows(drawn, [3, 1, 3, 1])
    assert len(person.shown()) == 4
    fresh = person.drawn(lambda: person.button("New handwriting").click())
    assert abs(fresh - drawn).max() > 0.5
    assert {url for url in person.urls if not url.startswith(server)} == set()


@in_browser
@pytest.mark.parametrize("model", ["cdcgan", "gan"])
def test_the_browser_draws_what_the_server_draws(visit, model):
    person = visit()
    person.drawn()
    person.open("Settings")
    if model != "cdcgan":
        person.drawn(lambda: person.choose(model))
        assert not person.field("Your number").is_visible()
    by_server = person.drawn(lambda: person.field("Seed").fill("2147483640"))  # they wrap
    by_browser = person.drawn(person.field("this browser").check)
    np.testing.assert_allclose(by_browser, by_server, rtol=0, atol=1e-5)
    walked = person.drawn(lambda: person.page.locator("#way").fill("35"))
    assert abs(walked - by_browser).max() > 0.1
    again = person.drawn(person.field("the server").check)
    np.testing.assert_allclose(walked, again, rtol=0, atol=1e-5)
    # The walk ends at the other seed, where who wants less motion sees its two ends only.
    person.drawn(lambda: person.page.locator("#way").fill("0"))
    end = person.drawn(lambda: person.button("Play the walk").click())
    person.drawn(lambda: person.page.locator("#way").fill("0"))
    there = person.drawn(lambda: person.field("Seed").fill("1000"))
    np.testing.assert_allclose(end, there, rtol=0, atol=1e-5)


@in_browser
def test_it_goes_on_when_the_server_is_gone(visit, server):
    person = visit()
    before = person.drawn()
    person.open("Settings").drawn(person.field("this browser").check)
    person.drawn(person.field("the server").check)
    person.context.set_offline(True)
    person.field("Seed").fill("8")
    assert f"The server at {server} does not answer" in person.alert()
    person.drawn(person.field("this browser").check)
    drawn = person.drawn(lambda: person.field("Seed").fill("7"))
    np.testing.assert_allclose(drawn, before, rtol=0, atol=1e-5)
    person.choose("gan")
    assert "cannot be fetched, as its server does not answer" in person.alert()


def watched(page):
    page.add_init_script(
        "window.ways = new Set();"
        "setInterval(() => window.ways.add(document.querySelector('#way')?.value), 20);"
    )


@in_browser
def test_it_moves_by_itself_and_comes_back(visit):
    person = visit(reduced_motion="no-preference", before=watched)
    person.page.wait_for_selector("html[data-drawings='2']")  # at the end it draws exactly
    assert person.page.evaluate("window.ways.size") > 3
    first, last = person.page.evaluate("window.drawings")
    np.testing.assert_allclose(last, first, rtol=0, atol=1e-6)
    person.page.wait_for_selector("[aria-busy=false]")
    fresh = person.drawn(lambda: person.button("New handwriting").click())
    assert abs(fresh - first).max() > 0.5
    person.button("Play the walk").click()
    person.button("New handwriting").click()  # while it still moves
    again = person.drawn(lambda: person.button("New handwriting").click())
    assert abs(again - fresh).max() > 0.5
    person.button("Play the walk").click()
    assert person.button("Pause the walk").is_visible()
    person.drawn(lambda: person.field("Your number").fill("5"))
    assert len(person.shown()) == 4
    assert person.page.locator("#way").input_value() == "0"


@in_browser
def test_real_digits_beside_and_the_game(visit):
    person = visit()
    person.drawn()
    person.drawn(person.field("compare with digits that people wrote").check)
    drawings = person.shown()
    assert len(set(drawings)) == 32
    person.drawn(person.field("compare with digits that people wrote").uncheck)
    assert person.shown() == drawings[:16]
    person.page.locator("#next").click()
    for number in range(1, 11):
        person.page.get_by_text(f"Pair {number} of 10").wait_for()
        assert len(set(person.shown("#pair canvas"))) == 2
        person.button("The left one").click()
        assert person.page.locator("#pair .right").count() == 1
        if number < 10:
            person.button("Next pair").click()
    assert re.search(r"You found \d+ of 10", person.page.text_content("#question"))
    assert person.button("Play again").is_visible()


@in_browser
def test_the_command_and_the_download_are_the_drawing(visit, tmp_path):
    person = visit(permissions=["clipboard-read", "clipboard-write"])
    drawn = person.drawn()
    person.open("The same from a terminal")
    for way in (None, "50"):
        if way:
            drawn = person.drawn(lambda: person.page.locator("#way").fill("50"))
        person.button("Copy").click()
        person.page.get_by_text("Copied").wait_for()
        command = person.page.evaluate("navigator.clipboard.readText()")
        assert len(person.page.text_content("#curl")) < 1400 and len(command) < 40_000
        curl, url, flag, body = shlex.split(command)
        assert (curl, flag) == ("curl", "-d")
        with urllib.request.urlopen(url, body.encode()) as response:
            (answer,) = json.load(response).values()
        np.testing.assert_allclose(answer, drawn, rtol=0, atol=1e-6)
    person.open("Settings")
    with person.page.expect_download() as download:
        person.button("Save as PNG").click()
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


def no_list(page):
    page.route("**/models.json", lambda route: route.fulfill(status=404, body="<h1>Not Found</h1>"))


@in_browser
@pytest.mark.parametrize(
    ("before", "field", "value", "message"),
    [
        (busy, None, None, "is busy; try again in a moment. It says: the queue is full."),
        (a_page, None, None, "502 with something else than JSON"),
        (no_onnx, "this browser", None, "no ONNX file of “cdcgan”: python -m tfgan_mnist.export"),
        (no_list, "Name of the model", "nope/../x", "has no model “nope/../x”."),
        (no_list, "Your number", "3, 11", "The server refuses (400): "),
        (None, "Your number", "2o26", "expected digits, such as 2026; received “2o26”"),
        (None, "Your number", "3, 11", "Your number: expected 0 to 9; received 11."),
        (None, "Lines", "100", "Expected at most 100 digits at a time; these are 400."),
        (None, "Seed", "-1", "Seed: Value must be greater than or equal to 0."),
    ],
)
def test_a_clear_message(visit, before, field, value, message):
    person = visit(before=before)
    if before not in (busy, a_page):
        person.drawn()
    person.open("Settings")
    if value is not None:
        person.field(field).fill(value)
        person.field(field).press("Enter")
    elif field:
        person.field(field).check()
    assert message in person.alert()
    # And it goes on.
    person.page.unroute_all()
    if before is no_list:
        person.field("Name of the model").fill("dcgan")
        person.field("Name of the model").press("Enter")
    else:
        person.choose("dcgan")
    if field == "Seed":
        person.field("Seed").fill("7")
    person.field("the server").check()
    person.page.get_by_role("alert").wait_for(state="hidden")


@in_browser
def test_on_a_phone(visit):
    person = visit(viewport={"width": 320, "height": 568}, is_mobile=True, has_touch=True)
    person.drawn()
    # The drawing, the word and its button are on the first screen, and the word is in one line.
    for selector in ("#sheet", "#text", "#fresh"):
        box = person.page.locator(selector).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 568, selector
    tops = person.page.eval_on_selector_all(
        ".word:first-child canvas", "(all) => all.map((each) => each.offsetTop)"
    )
    assert len(tops) == 4 and len(set(tops)) == 1
    for title in ("Settings", "The same from a terminal"):
        person.open(title)
    assert person.page.evaluate("document.documentElement.scrollWidth") == 320
    for button in person.page.get_by_role("button").all():
        box = button.bounding_box()
        assert box["width"] >= 40 and box["height"] >= 44, box


@in_browser
def test_it_asks_another_server(visit, server, exports, web_server, tmp_path, monkeypatch):
    """As in front of a real TensorFlow Serving, beside which the page lies in some web server."""
    person = visit(f"{web_server(PAGE)}?server={server.rstrip('/')}", before=no_list)
    assert shows(person.drawn(), [2, 0, 2, 6] * 4)
    person.open("Settings").field("Name of the model").fill("gan")
    drawn = person.drawn(lambda: person.field("Name of the model").press("Enter"))
    assert drawn.shape == (24, 28, 28, 1)
    # TensorFlow Serving does not know names of classes; the page of `export --page` does.
    export_page(monkeypatch, f"--page={tmp_path}", f"--saved_model={exports / 'cdcgan'}")
    listed = json.loads((tmp_path / "models.json").read_text())
    listed["models"][0]["classNames"] = [f"class-{digit}" for digit in "abcdefghij"]
    (tmp_path / "models.json").write_text(json.dumps(listed))

    def before(page):
        page.route(f"{server}models.json", lambda route: route.fulfill(status=404))

    person = visit(f"{web_server(tmp_path)}?server={server.rstrip('/')}", before=before)
    drawn = person.drawn()
    assert "drawn by the server" in person.page.get_by_role("status").first.text_content()
    assert person.field("Draw").input_value() == "class-a, class-b, class-c, class-d"
    assert shows(drawn, [0, 1, 2, 3] * 4)


# The static page


def export_page(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["export", *map(str, flags)])
    with pytest.raises(SystemExit) as stop:
        cli.run(export.main, export.parser())
    return stop.value.code


def test_a_static_page_has_all_files(exports, tmp_path, monkeypatch, capsys):
    for name in ("gan", "cdcgan", "gan"):
        flags = (f"--page={tmp_path / 'page'}", f"--saved_model={exports / name}")
        assert export_page(monkeypatch, *flags) is None
    assert "index.html, for any web server" in capsys.readouterr().out
    listed = json.loads((tmp_path / "page" / "models.json").read_text())
    assert listed["static"] is True
    assert [model["name"] for model in listed["models"]] == ["cdcgan", "gan"]
    for name in ("gan", "cdcgan"):
        onnx = tmp_path / "page" / "onnx" / f"{name}.onnx"
        assert onnx.read_bytes() == (exports / name / "1.onnx").read_bytes()


@in_browser
def test_a_static_page_draws_without_a_server(visit, exports, web_server, tmp_path, monkeypatch):
    export_page(monkeypatch, f"--page={tmp_path}", f"--saved_model={exports / 'cdcgan'}")
    url = web_server(tmp_path)
    person = visit(url)
    assert shows(person.drawn(), [2, 0, 2, 6] * 4)
    assert "drawn by this browser" in person.page.get_by_role("status").first.text_content()
    person.open("Settings")
    assert not person.field("the server").is_visible()
    assert not person.page.get_by_text("The same from a terminal").is_visible()
    person.drawn(person.field("compare with digits that people wrote").check)
    assert {each for each in person.urls if not each.startswith(url)} == set()
    assert not [each for each in person.urls if "/v1/" in each]


@in_browser
def test_a_static_page_of_colour_images_with_named_classes(
    visit, web_server, tmp_path, monkeypatch
):
    names = ["cat", "dog", "horse", "ship", "frog", "deer", "bird", "truck", "plane", "car"]
    saved_model.export(tiny("cdcgan"), tmp_path / "tiny", {"class_names": names})
    export_page(monkeypatch, f"--page={tmp_path / 'page'}", f"--saved_model={tmp_path / 'tiny'}")
    person = visit(web_server(tmp_path / "page"))
    drawn = person.drawn()
    assert drawn.shape == (16, 8, 8, 3)
    assert person.field("Draw").input_value() == "cat, dog, horse, ship"
    assert person.page.get_by_role("heading", level=1).text_content() == "Images that nobody made"
    assert person.page.locator("#sheet canvas.colour").count() == 16
    first = np.round(255 * drawn[0, 0, 0])
    pixel = person.page.evaluate(
        "Array.from(document.querySelector('#sheet canvas').getContext('2d')"
        ".getImageData(0, 0, 1, 1).data)"
    )
    np.testing.assert_allclose(pixel, [*first, 255], atol=1)
    by_name = person.drawn(lambda: person.field("Draw").fill("frog Dog"))
    by_number = person.drawn(lambda: person.field("Draw").fill("4, 1"))
    np.testing.assert_array_equal(by_name, by_number)
    person.field("Draw").fill("mouse")
    assert "received “mouse”" in person.alert()
