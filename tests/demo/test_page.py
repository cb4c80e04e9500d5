"""The page in a real browser, and its command line."""

import json
import socket
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.support.browser import browser, wait
from tests.support.forked import Script
from tests.support.launch import ENVIRONMENT, wait_until

# Collects the pictures and texts that an element shows, one after the other.
WATCH = """
const [key, element, read] = [arguments[0], document.getElementById(arguments[0]), arguments[1]];
window.seen = window.seen || {};
const values = window.seen[key] = [];
const look = () => {
  const value = read == 'src' ? element.querySelector('img')?.src : element.innerText;
  if (value && value !== values.at(-1)) values.push(value);
};
new MutationObserver(look).observe(element, {subtree: true, childList: true, attributes: true, characterData: true});
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Page:
    """Short words for what a visitor does."""

    def __init__(self, driver):
        self.driver = driver

    def find(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def wait(self, condition) -> None:
        wait(self.driver, condition)

    def watch(self, key: str, read: str) -> None:
        self.driver.execute_script(WATCH, key, read)

    def seen(self, key: str) -> list[str]:
        return self.driver.execute_script("return window.seen[arguments[0]]", key)

    def choose(self, field: str, start: str) -> None:
        self.find(f"#{field} input").click()
        self.wait(lambda: self.driver.find_elements("css selector", f"[role=option][aria-label^='{start}']"))
        self.find(f"[role=option][aria-label^='{start}']").click()
        self.find("h2").click()  # closes the list

    def text(self, key: str) -> str:
        return self.find(f"#{key}").text

    def finished(self, key: str) -> bool:
        return "codes/s" in self.text(key) and "drawing" not in self.text(key)


@pytest.fixture(scope="module")
def served(folders, tmp_path_factory) -> str:
    """The address of a page that compares two models."""
    outputs = [tmp_path_factory.mktemp("served") / name for name in ("stdout", "stderr")]
    port = free_port()
    environment = ENVIRONMENT | {"GRADIO_TEMP_DIR": str(outputs[0].parent / "gradio")}
    script = Script(["-m", "demo", *map(str, folders), "--port", str(port)], environment, *outputs)
    try:
        wait_until(lambda: outputs[0].is_file() and "in a browser" in outputs[0].read_text(), script)
        yield f"http://127.0.0.1:{port}/"
    finally:
        script.kill()


@pytest.fixture(scope="module")
def page(served) -> Page:
    with browser() as driver:
        driver.get(served)
        page = Page(driver)
        page.wait(lambda: driver.find_elements("css selector", "#draw"))
        yield page


@pytest.mark.slow
def test_images_appear_while_they_are_drawn(page):
    page.choose("classes", "owl")
    page.find("#temperature textarea, #temperature input").send_keys("0.9")
    for number in range(2):
        page.watch(f"picture_{number}", "src")
        page.watch(f"text_{number}", "text")
    page.find("#draw").click()
    page.wait(lambda: page.finished("text_0") and page.finished("text_1"))
    page.wait(lambda: "--temperature 0.9" in page.text("commands"))
    pictures = [page.seen(f"picture_{number}") for number in range(2)]
    assert len(set(pictures[0])) >= 4  # of 8 frames: a browser may skip some
    assert len(set(pictures[1])) >= 2  # of 8 sampling steps
    drawn = [text for text in page.seen("text_0") if "codes in" in text]
    assert any("drawing: " in text for text in drawn[:-1])
    assert drawn[-1].startswith("584 codes in ")
    assert page.text("commands").count("sample.py") == 2
    assert "--classes 0,3 --per_class 4 --seed 42" in page.text("commands").replace("\n", " ")


@pytest.mark.slow
def test_past_drawings_can_be_chosen_again(page):
    """After the drawing above."""
    page.find("#new_seed").click()
    page.wait(lambda: page.find("#seed input").get_attribute("value") != "42")
    page.find("#draw").click()
    page.wait(lambda: len(page.driver.find_elements("css selector", "#gallery img")) == 2)
    assert "--seed 42 " not in page.text("commands")
    page.driver.find_elements("css selector", "#gallery img")[1].click()
    page.wait(lambda: "--seed 42 " in page.text("commands"))
    page.find("#again").click()
    page.wait(lambda: page.find("#seed input").get_attribute("value") == "42")


@pytest.mark.slow
def test_a_wrong_setting_is_explained(page):
    page.find("#top_k textarea, #top_k input").send_keys("many")
    page.find("#draw").click()
    page.wait(lambda: "Top-k: 'many' is no whole number" in page.find("body").text)
    page.find("#top_k textarea, #top_k input").clear()


@pytest.mark.slow
def test_an_image_is_encoded_and_completed(page, tmp_path):
    Image.effect_noise((60, 40), 90).save(tmp_path / "noise.png")
    tabs = page.driver.find_elements("css selector", "button[role=tab]")
    next(tab for tab in tabs if "Encode" in tab.text).click()
    page.wait(lambda: page.find("#upload").is_displayed())
    page.find("#upload input[type=file]").send_keys(str(tmp_path / "noise.png"))
    page.wait(lambda: "PSNR" in page.text("code_text"))
    assert "73 codes" in page.text("code_text")
    page.wait(lambda: len(page.driver.find_elements("css selector", "#crop img, #reconstruction img, #codes img")) == 3)
    page.choose("class_id", "dog")
    page.watch("completions", "src")
    page.find("#complete").click()
    page.wait(lambda: page.finished("completion_text"))
    assert len(set(page.seen("completions"))) >= 2
    assert page.text("completion_text").startswith("128 codes in ")  # 4 images, 4 rows of 8 codes


@pytest.mark.slow
def test_nothing_comes_from_another_machine(page):
    """After what the tests above did."""
    messages = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert len(urls) > 10
    assert {urlsplit(url).hostname for url in urls if url.startswith("http")} == {"127.0.0.1"}


def test_a_port_in_use(refusal, folders):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refusal("demo/__main__.py", folders[0], "--port", port)
    assert line.startswith(f"error: cannot serve at 127.0.0.1:{port} (Address already in use): choose another --port")


def test_a_missing_model(refusal, tmp_path):
    line = refusal("demo/__main__.py", tmp_path / "no", "--port", free_port())
    assert "is neither a file, nor a folder, nor a hub id" in line


def test_help(program):
    code, out, _ = program("demo/__main__.py", "--help")
    assert code == 0
    assert "default: loopback" in out
    assert all(flag in out for flag in ("--port", "--max_images", "--tokenizer", "--config"))
