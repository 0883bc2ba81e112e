"""The live page in a real headless browser: what a reader types, drags and presses, against what Python says.

    pip install -e ".[browser]"     and Chromium with its driver, such as apt-get install chromium chromium-driver
"""

import json
import re
import shutil
import threading
import xml.etree.ElementTree
from dataclasses import replace
from urllib.parse import urlparse

import pytest
import torch
from helpers import tiny_bert, tiny_run, write_tiny_folder

from minipelt.experiment import new_folder, prepare, run_experiment
from minipelt.tools.live import open_server
from minipelt.tools.liveruns import LiveRuns

webdriver = pytest.importorskip("selenium.webdriver", reason='no selenium here: pip install -e ".[browser]"')
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

pytestmark = pytest.mark.slow
METHODS = {"apl": "sst2", "lora": "sst2", "prefix": "sst2", "bitfit": "sst2", "ap": "stsb", "al": "rte"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
)
TEXT = "a warm film, and clever"
QUIET = "return !asking && !asked && state.views.every(view => view.look)"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """LiveRuns of a trained run of every method, by the method's name."""
    torch.manual_seed(1)
    parent = tmp_path_factory.mktemp("live")
    bert = write_tiny_folder(parent / "tiny-bert", tiny_bert())
    folders = []
    for method, task in METHODS.items():
        run = tiny_run(bert, task, method, epochs=1, k=20, valid_rows=10)
        run = replace(run, recipe=replace(run.recipe, learning_rate=0.05))
        folder = new_folder(run, parent)
        run_experiment(prepare(run), folder)
        folders.append(folder.rename(parent / method))
    opened = LiveRuns(folders, "cpu")
    opened.survey()
    return opened


@pytest.fixture(scope="module")
def url(runs):
    """Where the page is served."""
    server = open_server(runs, 18_700)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server.url
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium that writes down what it requests and complains about."""
    program = next((path for path in map(shutil.which, BROWSERS) if path), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium with its chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


class Reader:
    """Somebody at the page, with what they can do and see."""

    def __init__(self, browser, runs):
        self.browser, self.runs = browser, runs

    def open(self, address, method="apl", width=1366, height=900, dark=False):
        """Open the page at a size, with a run, as trained."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
        self.browser.get(address)
        self.wait("return state.views.length > 0")
        if method != "apl":
            self.choose("run", method)
        self.settle()

    def js(self, code, *values):
        """Run JavaScript."""
        return self.browser.execute_script(code, *values)

    def wait(self, code, seconds=60):
        """Wait until JavaScript says true."""
        WebDriverWait(self.browser, seconds, 0.05).until(lambda browser: browser.execute_script(code))

    def settle(self):
        """Wait until the page has its answers."""
        self.wait(QUIET)

    def find(self, css):
        """The first element."""
        return self.browser.find_element(By.CSS_SELECTOR, css)

    def all(self, css):
        """Every element."""
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def gate(self, name, stack=0):
        """The cell of a part, by its name in the encoder's layers: 2.adapter."""
        figure = self.all("#stacks figure")[stack]
        return figure.find_element(By.CSS_SELECTOR, f'[data-part="bert.encoder.layer.{name}"]')

    def focus(self, element):
        """Give an element the keyboard."""
        self.js("arguments[0].focus()", element)

    def press(self, *keys):
        """Press keys where the focus is."""
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)

    def type(self, text, column=0):
        """Put a text in the place of what is there, as a keyboard does."""
        area = self.all("#texts textarea")[column]
        area.send_keys(Keys.CONTROL, "a")
        area.send_keys(text)
        self.wait(f"{QUIET} && state.answered[{column}] === {json.dumps(text)}")

    def choose(self, name, value):
        """Choose from a list."""
        Select(self.find(f"#{name}")).select_by_value(value)
        self.settle()

    def scope(self, value):
        """What a drag turns."""
        self.find(f'input[name="scope"][value="{value}"]').click()

    def shown(self, answer="positive", block=0):
        """A probability as the page has it: (number as written, width of the bar in percent)."""
        holder = self.all("#answers .answer")[block]
        track = holder.find_element(By.CSS_SELECTOR, f'[data-answer="{answer}"]')
        number = self.js("return arguments[0].nextElementSibling.textContent", track)
        width = self.js("return parseFloat(arguments[0].querySelector('.fill').style.width)", track)
        return float(number), width

    def check_answer(self, forced=None, removed=(), method="apl", text=TEXT, block=0):
        """The page's probability is the one that Python computes. Returns it."""
        seen = self.runs.look(method, [text], forced or {}, list(removed))
        expected = seen["answer"]["probabilities"]["positive"]
        number, width = self.shown(block=block)
        assert number == pytest.approx(expected, abs=0.0051)
        assert width == pytest.approx(100 * expected, abs=0.01)
        return expected

    def forced(self):
        """What the page forces now."""
        return self.js("return state.views[0].forced")


@pytest.fixture
def reader(browser, runs, url):
    """A Reader at the page; afterwards: no complaint on the console, no request that leaves this machine."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    yield Reader(browser, runs)
    complaints = [entry["message"] for entry in browser.get_log("browser") if entry["level"] != "DEBUG"]
    assert not complaints
    for address in requests_of(browser):
        parts = urlparse(address)
        assert parts.scheme in ("data", "blob", "file", "about") or address.startswith(url), address


def requests_of(browser):
    """Every address that the browser asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


# ---- text and answer


def test_type_a_sentence_and_see_the_label(reader, url):
    reader.open(url)
    reader.type(TEXT)
    reader.check_answer()
    seen = reader.runs.look("apl", [TEXT])
    assert reader.find(".verdict").text == seen["answer"]["label"]
    gate = seen["parts"]["bert.encoder.layer.2.adapter"]["gate"]
    cell = reader.gate("2.adapter")
    assert float(cell.get_attribute("aria-valuenow")) == pytest.approx(gate, abs=1e-4)
    assert f"{gate:.2f}" in cell.text


def test_examples_are_one_click_away(reader, url):
    reader.open(url)
    reader.wait("return document.querySelectorAll('#examples button').length > 3")
    for heading, right in ((0, True), (1, False)):
        chip = reader.all("#examples ul")[heading].find_element(By.CSS_SELECTOR, "button")
        text = chip.get_attribute("textContent")
        chip.click()
        reader.settle()
        examples = {each["texts"][0]: each for each in reader.runs.runs["apl"].dev["examples"]}
        assert examples[text]["right"] is right
        verdict = reader.find(".true-label").text
        assert ("right" if right else "wrong") in verdict and examples[text]["label"] in verdict
        assert reader.find(".verdict").text == examples[text]["answer"]
    reader.all("#texts textarea")[0].send_keys(" more")
    reader.wait("return !document.querySelector('.true-label')")  # another text: its label is not known
    first = reader.all("#examples button")[0].text
    reader.find("#others").click()
    assert reader.all("#examples button")[0].text != first


def test_empty_and_long_texts(reader, url):
    reader.open(url)
    area = reader.find("#texts textarea")
    area.send_keys(Keys.CONTROL, "a")
    area.send_keys(Keys.DELETE)
    reader.wait("return document.querySelector('#answers').textContent.includes('Type a text')")
    reader.js("arguments[0].value = 'a '.repeat(30)", area)
    area.send_keys("b")
    reader.wait("return document.querySelector('#cut').textContent.includes('9 more are cut off')")
    reader.js("arguments[0].value = 'a'.repeat(100000)", area)
    area.send_keys("b")
    reader.wait("return document.querySelector('#message').textContent.includes('expected at most 10,000')")
    reader.type(TEXT)
    reader.wait("return document.querySelector('#message').textContent === ''")
    reader.check_answer()
    reader.browser.get_log("browser")  # the browser notes the refusal of the 100,000 characters there


def test_text_stays_text(reader, url):
    reader.open(url)
    reader.type("<img src=x onerror=alert(1)>")
    assert not reader.all("main img")
    assert "<" in reader.find("#tokens-body").text or "[UNK]" in reader.find("#tokens-body").text


def test_two_texts_and_a_score(reader, url):
    reader.open(url, "ap")
    assert len(reader.all("#texts textarea")) == 2
    reader.type("it rains", 0)
    reader.type("it pours", 1)
    score = reader.runs.look("ap", ["it rains", "it pours"])["answer"]["score"]
    assert float(reader.find(".verdict").text) == pytest.approx(score, abs=0.0051)
    labels = [example["label"] for example in reader.runs.runs["ap"].dev["examples"]]
    share = (score - min(labels)) / (max(labels) - min(labels))
    width = reader.js("return parseFloat(document.querySelector('.bars .fill').style.width)")
    assert width == pytest.approx(100 * min(1, max(0, share)), abs=0.1)


def test_a_label_goes_with_its_task(reader, url):
    reader.open(url, "al")
    assert "entailment" in reader.find(".true-label").text
    texts = [area.get_attribute("value") for area in reader.all("#texts textarea")]
    reader.choose("run", "ap")
    assert [area.get_attribute("value") for area in reader.all("#texts textarea")] == texts
    assert not reader.all(".true-label")


# ---- turning


def test_drag_a_gate_and_the_probability_is_what_python_says(reader, url):
    reader.open(url)
    reader.type(TEXT)
    before = reader.check_answer()
    track = reader.gate("2.adapter").find_element(By.CSS_SELECTOR, ".track")
    width = reader.js("return arguments[0].getBoundingClientRect().width", track)
    actions = ActionChains(reader.browser).move_to_element(track).click_and_hold()
    actions.move_by_offset(int(width / 4), 0).move_by_offset(int(width / 8), 0).release().perform()
    reader.settle()
    forced = reader.forced()
    assert list(forced) == ["bert.encoder.layer.2.adapter.gate"]
    assert forced["bert.encoder.layer.2.adapter.gate"] == pytest.approx(0.875, abs=0.06)
    after = reader.check_answer(forced)
    assert after != before
    cell = reader.gate("2.adapter")
    assert "forced" in cell.get_attribute("class") and "forced" in cell.get_attribute("aria-valuetext")
    ghost = reader.js("return document.querySelector('[data-answer=positive] .ghost').style.left")
    assert float(re.search(r"[\d.]+", ghost)[0]) == pytest.approx(100 * before, abs=0.01)
    reader.find("#reset").click()
    reader.settle()
    assert reader.forced() == {} and reader.check_answer() == before


@pytest.mark.parametrize("scope, count", [("one", 1), ("submodule", 3), ("layer", 4), ("all", 12)])
def test_one_gate_a_column_a_layer_or_all(reader, url, scope, count):
    reader.open(url)
    reader.type(TEXT)
    reader.scope(scope)
    reader.focus(reader.gate("1.attention.self.lora_value"))
    reader.press(Keys.HOME)
    reader.settle()
    forced = reader.forced()
    assert len(forced) == count and set(forced.values()) == {0}
    reader.check_answer(forced)
    reader.find("#open").click()
    reader.settle()
    assert set(reader.forced().values()) == {1}
    reader.check_answer(reader.forced())
    reader.press(Keys.TAB)
    reader.find("#trained").click()
    reader.settle()
    assert reader.forced() == {}


def test_a_number_typed_in_and_a_part_taken_out(reader, url):
    reader.open(url)
    reader.type(TEXT)
    reader.focus(reader.gate("0.attention.self.prefix"))
    value = reader.find("#value")
    value.send_keys(Keys.CONTROL, "a")
    value.send_keys("0.35", Keys.ENTER)
    reader.settle()
    assert reader.forced() == {"bert.encoder.layer.0.attention.self.prefix.gate": 0.35}
    reader.check_answer(reader.forced())
    reader.scope("submodule")
    reader.find("#take-out").click()
    reader.settle()
    assert reader.find("#take-out").get_attribute("aria-pressed") == "true"
    reader.check_answer(reader.forced(), ["prefix"])
    reader.find("#take-out").click()
    reader.settle()
    reader.check_answer(reader.forced())


def test_keyboard_only(reader, url):
    reader.open(url)
    reader.wait("return document.querySelectorAll('#examples button').length > 3")
    reader.js("document.activeElement.blur(); window.scrollTo(0, 0)")
    reader.find("body").send_keys(Keys.TAB)
    assert "Skip to the text" in reader.browser.switch_to.active_element.text
    visited = []
    for _ in range(80):
        reader.press(Keys.TAB)
        active = reader.browser.switch_to.active_element
        visited.append(active.get_attribute("data-part") or active.get_attribute("id") or active.tag_name)
        if active.tag_name == "textarea":
            active.send_keys(Keys.CONTROL, "a")
            active.send_keys(TEXT)
            reader.wait(QUIET)
        if visited[-1] == "bert.encoder.layer.1.adapter":
            break
    assert {"run", "beside", "theme", "save-page", "textarea", "shut", "value"} <= set(visited)
    assert visited[-1] == "bert.encoder.layer.1.adapter"
    name = "bert.encoder.layer.1.adapter.gate"
    gate = reader.runs.look("apl", [TEXT])["parts"]["bert.encoder.layer.1.adapter"]["gate"]
    for keys, expected in [
        ([Keys.ARROW_RIGHT], gate + 0.05), ([Keys.ARROW_LEFT] * 2, gate - 0.05), ([Keys.HOME], 0), ([Keys.END], 1),
        ([Keys.PAGE_DOWN], 0.75), ([Keys.ARROW_UP], 0.8), ([Keys.ARROW_DOWN], 0.75),
    ]:
        reader.press(*keys)
        reader.settle()
        assert reader.forced()[name] == pytest.approx(min(1, expected), abs=0.011)
        reader.check_answer(reader.forced())
    reader.press(Keys.DELETE)
    reader.settle()
    assert reader.forced() == {}
    assert reader.browser.switch_to.active_element.get_attribute("data-part") == "bert.encoder.layer.1.adapter"


# ---- prefix, tokens, attention


def test_a_shut_prefix_is_seen_not_to_be_plain_bert(reader, url):
    reader.open(url)
    reader.type(TEXT)
    reader.wait("return document.querySelectorAll('#prefix-body li').length === 5")
    reader.wait("return JSON.parse(prefixText)[1][0] === document.querySelector('textarea').value")
    states = {state["state"]: state for state in reader.runs.prefix_states("apl", [TEXT])}
    muted = reader.find('#prefix-body [data-state="others shut"]')
    plain = reader.find('#prefix-body [data-state="others shut, removed"]')
    assert f"{states['others shut']['distance']:.3f} away from plain BERT" in muted.text
    assert "0.000: plain BERT" in plain.text
    for state, forced, removed in [
        ("muted", {"prefix": 0}, []), ("removed", {}, ["prefix"]), ("others shut", {"all": 0}, []),
        ("others shut, removed", {"all": 0}, ["prefix"]),
    ]:
        reader.find(f'#prefix-body [data-state="{state}"] button').click()
        reader.settle()
        assert reader.check_answer(forced, removed) == states[state]["answer"]["probabilities"]["positive"]
    drifts = reader.js("return state.views[0].look.layers.map(layer => layer.drift)")
    assert max(drifts) < 1e-4
    reader.find('#prefix-body [data-state="trained"] button').click()
    reader.settle()
    reader.check_answer()


def test_tokens_of_the_gate_that_was_chosen(reader, url):
    reader.open(url)
    reader.type(TEXT)
    seen = reader.runs.look("apl", [TEXT])
    for name in ("0.attention.self.lora_query", "2.adapter"):
        reader.focus(reader.gate(name))
        reader.settle()
        words = [element.text for element in reader.all("#tokens-body .word")]
        values = [float(element.text) for element in reader.all("#tokens-body .value")]
        assert words == seen["tokens"]
        assert values == pytest.approx(seen["parts"][f"bert.encoder.layer.{name}"]["tokens"], abs=0.0051)
    reader.find("#tokens summary").click()
    assert len(reader.all("#tokens table tbody tr")) == 3


def test_attention_of_a_head_with_the_prefix_apart(reader, url):
    reader.open(url)
    reader.type(TEXT)
    reader.choose("layer", "1")
    reader.choose("head", "2")
    attention = reader.runs.look("apl", [TEXT], {}, [], [1, 2])["attention"]
    assert reader.js("return state.views[0].look.attention") == attention
    visible = [[weight for weight in row if weight >= 0.004] for row in attention["weights"]]
    rects = reader.all("#attention svg rect.own")
    on_prefix = sum(weight >= 0.004 for row in attention["weights"] for weight in row[:3])
    assert len(rects) == sum(map(len, visible)) - on_prefix
    edges = reader.js(
        "return [...document.querySelectorAll('#attention svg .frame')].map(e => [+e.getAttribute('x'), "
        "+e.getAttribute('x') + +e.getAttribute('width')])"
    )
    assert len(edges) == 2 and edges[0][1] + 5 < edges[1][0]
    share = sum(sum(row[:3]) for row in attention["weights"]) / len(attention["weights"])
    assert f"they get {round(100 * share)} %" in reader.find("#attention-body").text


# ---- several runs, and runs without gates


def test_two_runs_side_by_side(reader, url):
    reader.open(url, width=1920)
    reader.type(TEXT)
    reader.choose("beside", "lora")
    reader.check_answer()
    reader.check_answer(method="lora", block=1)
    assert len(reader.all("#stacks svg.stack")) == 2
    for layer in (0, 2):  # layers stand side by side
        first, second = (reader.gate(f"{layer}.attention.self.lora_query", stack).location["y"] for stack in (0, 1))
        assert abs(first - second) < 80
    cell = reader.gate("1.attention.self.lora_value", 1)
    assert cell.get_attribute("role") == "switch" and cell.get_attribute("aria-checked") == "true"
    reader.focus(cell)
    reader.press(Keys.SPACE)
    reader.settle()
    assert cell.get_attribute("aria-checked") == "false"
    reader.check_answer({}, ["bert.encoder.layer.1.attention.self.lora_value"], "lora", block=1)
    reader.check_answer()
    reader.choose("beside", "as trained")
    reader.focus(reader.gate("2.adapter"))
    reader.press(Keys.HOME)
    reader.settle()
    reader.check_answer({"bert.encoder.layer.2.adapter.gate": 0})
    reader.check_answer(block=1)


def test_only_runs_that_read_as_many_texts_stand_beside(reader, url):
    reader.open(url)
    values = [option.get_attribute("value") for option in Select(reader.find("#beside")).options]
    assert values == ["", "as trained", "lora", "prefix", "bitfit"]


@pytest.mark.parametrize("method", ["lora", "prefix", "bitfit"])
def test_runs_without_gates_show_what_they_have(reader, url, method):
    reader.open(url, method)
    reader.type(TEXT)
    reader.check_answer(method=method)
    assert "has no gates" in reader.find("#tokens-body").text
    seen = reader.runs.look(method, [TEXT])
    words = reader.find("#stacks svg").text
    for part in seen["parts"].values():
        assert f"{round(100 * part['adds'])} %" in words or part["adds"] < 0.01
    assert reader.find("#prefix").is_displayed() == (method == "prefix")
    assert reader.find("#turning").is_displayed() == (method != "bitfit")
    if method == "prefix":
        reader.wait("return document.querySelectorAll('#prefix-body li').length === 3")
        assert "0.000: plain BERT" in reader.find('#prefix-body [data-state="removed"]').text


def test_mean_and_spread_of_the_dev_set_stand_behind_the_bars(reader, url):
    reader.open(url)
    reader.wait("return Object.values(state.dev).every(dev => dev.state === 'done')")
    spread = reader.runs.runs["apl"].dev["gates"]["bert.encoder.layer.1.adapter.gate"]
    cell = reader.gate("1.adapter")
    band, track, mean = (reader.js(
        "const e = arguments[0].querySelector(arguments[1]); return [+(e.getAttribute('x') ?? e.getAttribute('x1')), "
        "+e.getAttribute('width')]", cell, css) for css in (".band", ".track", ".mean"))
    assert (mean[0] - track[0]) / track[1] == pytest.approx(spread["mean"], abs=0.01)
    assert band[1] / track[1] == pytest.approx(2 * spread["deviation"], abs=0.03)


# ---- how it looks


def contrast(reader, css):
    """The contrast of an element's text to what is behind it, as WCAG computes it."""
    return reader.js("""
      const parse = colour => colour.match(/[\\d.]+/g).map(Number)
      const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
      const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255)
      const element = document.querySelector(arguments[0])
      const style = getComputedStyle(element)
      const front = parse(element.namespaceURI.endsWith("svg") ? style.fill : style.color)
      let behind = element
      let back = null
      const box = element.closest("g")?.querySelector(":scope > .box") || element.closest("svg.stack g")?.parentNode
        .querySelector(".box")
      if (box) back = parse(getComputedStyle(box).fill)
      while (!back) {
        const found = parse(getComputedStyle(behind).backgroundColor)
        if (found.length < 4 || found[3] > 0) back = found
        behind = behind.parentElement
      }
      const [a, b] = [light(front), light(back)].sort((x, y) => y - x)
      return (a + 0.05) / (b + 0.05)
    """, css)


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_can_be_read(reader, url, dark):
    reader.open(url, dark=dark)
    reader.type(TEXT)
    reader.wait("return document.querySelectorAll('#examples button').length > 3")
    reader.wait("return document.querySelectorAll('#prefix-body li').length === 5")
    brightness = reader.js("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert brightness < 60 if dark else brightness > 200
    for css in (
        "h1", "#about", ".verdict", "#stack-lead", "#detail", "#tokens-body p", "#attention-body p", "#prefix-body li",
        "#prefix-body .soft", "#examples button", "button#theme", "textarea", ".bars .number", ".stack .bold",
        ".stack .cell .label.prefix", ".stack .cell .label.lora", ".stack .cell .label.adapter", ".stack .cell .soft",
    ):
        assert contrast(reader, css) >= 4.5, css
    reader.find("#theme").click()  # light
    reader.find("#theme").click()  # dark
    assert "dark" in reader.find("#theme").text
    assert reader.js("return document.documentElement.dataset.theme") == "dark"
    reader.js("localStorage.clear()")


@pytest.mark.parametrize("width", [360, 768, 1366, 1920])
def test_every_width_shows_everything_without_scrolling_sideways(reader, url, width):
    reader.open(url, width=width)
    reader.type(TEXT)
    reader.wait("return document.querySelectorAll('#prefix-body li').length === 5")
    assert reader.js("return document.documentElement.scrollWidth") <= width
    for css in ("textarea", ".verdict", "#stacks svg", ".tokens", "#attention svg", "#prefix-body", "#how"):
        element = reader.find(css)
        assert element.is_displayed() and element.size["width"] > 40, css
    outside = reader.js("""
      return [...document.querySelectorAll("#stacks .cell")].filter(cell => {
        const own = cell.querySelector(".plate").getBoundingClientRect()
        const svg = cell.ownerSVGElement.getBoundingClientRect()
        const texts = [...cell.querySelectorAll("text")].map(text => text.getBoundingClientRect())
        return own.left < svg.left - 1 || own.right > svg.right + 1 || texts.some(text => text.right > own.right + 2)
      }).length
    """)
    assert outside == 0
    size = reader.js("return document.querySelector('#stacks .cell .soft').getBoundingClientRect().height")
    assert size > 11  # small print on the picture is still to be read


def test_everything_that_can_be_used_has_a_name(reader, url):
    reader.open(url)
    reader.wait("return document.querySelectorAll('#examples button').length > 3")
    found = [each for each in reader.all("button, select, textarea, input, [tabindex='0']") if each.is_displayed()]
    assert len(found) > 30
    for element in found:
        assert element.accessible_name.strip(), element.get_attribute("outerHTML")[:200]
    sliders = [element for element in found if element.get_attribute("role") == "slider"]
    assert len(sliders) == 12
    names = {element.accessible_name for element in sliders}
    assert len(names) == 12 and "layer 2, adapter, gate" in names
    assert reader.find("html").get_attribute("lang") == "en" and reader.find("[role=status]")
    assert reader.js("return document.querySelector('#status').textContent.length") > 5


def test_a_smaller_window_is_drawn_again_and_keeps_the_focus(reader, url):
    reader.open(url, width=1366)
    reader.focus(reader.gate("1.adapter"))
    size = {"width": 500, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    reader.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    reader.wait("return document.querySelector('#stacks svg').viewBox.baseVal.width < 500")
    assert reader.browser.switch_to.active_element.get_attribute("data-part") == "bert.encoder.layer.1.adapter"


# ---- saving, and a server that has gone


def downloads(reader, folder):
    """Let the browser save into a folder."""
    reader.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})


def wait_for(reader, path):
    """Wait for a file."""
    WebDriverWait(reader.browser, 120, 0.1).until(lambda _: path.is_file() and path.stat().st_size)
    return path.read_text(encoding="utf-8")


def test_the_picture_as_svg(reader, url, tmp_path):
    reader.open(url)
    reader.type(TEXT)
    downloads(reader, tmp_path)
    reader.find("#save-picture").click()
    text = wait_for(reader, tmp_path / "minipelt-live.svg")
    root = xml.etree.ElementTree.fromstring(text)
    words = "".join(root.itertext())
    assert root.tag.endswith("svg") and TEXT in words and "layer 2" in words and "adapter" in words
    assert "var(--" not in text


def test_a_saved_page_needs_no_server(reader, url, tmp_path):
    reader.open(url)
    reader.type(TEXT)
    downloads(reader, tmp_path)
    reader.find("#save-page").click()
    boxes = reader.all("#saving-list input")
    for number, each in enumerate(boxes):
        if each.is_selected() != (number < 2):
            each.click()
    reader.find("#saving-go").click()
    wait_for(reader, tmp_path / "minipelt-live.html")
    reader.wait("return !document.getElementById('saving').open")
    reader.browser.get((tmp_path / "minipelt-live.html").as_uri())
    reader.settle()
    reader.check_answer()
    reader.focus(reader.gate("2.adapter"))
    reader.press(Keys.HOME)
    reader.settle()
    reader.check_answer({"bert.encoder.layer.2.adapter.gate": 0})
    assert reader.find(".ghost")
    reader.scope("submodule")
    reader.focus(reader.gate("2.adapter"))
    reader.press(Keys.END)
    reader.settle()
    reader.check_answer({"adapter": 1})
    reader.scope("all")
    reader.focus(reader.gate("0.attention.self.prefix"))
    reader.press(Keys.HOME)
    reader.settle()
    reader.check_answer({"all": 0})
    reader.press(Keys.DELETE)
    reader.settle()
    reader.check_answer()
    reader.find('#prefix-body [data-state="others shut, removed"] button').click()
    reader.settle()
    reader.check_answer({"all": 0}, ["prefix"])
    reader.find("#reset").click()
    reader.all("#examples button")[1].click()
    reader.settle()
    text = reader.find("textarea").get_attribute("value")
    assert text != TEXT
    reader.check_answer(text=text)
    reader.choose("layer", "0")
    reader.choose("head", "1")
    weights = reader.js("return state.views[0].look.attention.weights")
    expected = reader.runs.look("apl", [text], {}, [], [0, 1])["attention"]["weights"]
    assert torch.allclose(torch.tensor(weights), torch.tensor(expected), atol=0.0051)


def test_a_server_that_has_gone_is_told(reader, url):
    reader.open(url)
    network = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    reader.browser.execute_cdp_cmd("Network.emulateNetworkConditions", network)
    reader.find("textarea").send_keys(" more")
    reader.wait("return document.querySelector('#message').textContent.includes('does not answer')")
    reader.browser.execute_cdp_cmd("Network.emulateNetworkConditions", network | {"offline": False})
    reader.type(TEXT)
    reader.wait("return document.querySelector('#message').textContent === ''")
    reader.check_answer()
    reader.browser.get_log("browser")  # where the browser complains of the network, too
