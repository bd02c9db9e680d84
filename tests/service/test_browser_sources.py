"""Sources and live generation in Chromium: by pointer, by keyboard, at 390 px; what files hold is never markup."""

import json

import pytest
from service_fakes import FakeEngine

from tunesmith.records import Answer

pytestmark = pytest.mark.browser
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>"


class Varied(FakeEngine):
    """Every seed writes another answer, with markup in it."""

    def answer(self, sampling, model):
        return Answer(f"It is {sampling.seed} percent. {EVIL}", model, (1, 2))


@pytest.fixture
def engine():
    return Varied()


def a_file(*rows, name="rates 2026.jsonl"):
    return {"name": name, "mimeType": "", "buffer": "".join(json.dumps(r) + "\n" for r in rows).encode()}


def test_a_file_is_brought_and_ranked(url, open_page, problems, axe, workspace):
    page = open_page(f"{url}/sources")
    assert axe(page) == []
    page.set_input_files("#file", a_file({"prompt": f"Rate? {EVIL}", "answers": [EVIL, f"b {EVIL}"]}))
    assert page.input_value("#name") == "rates-2026"
    page.click("#send")
    page.wait_for_selector("#next:visible")
    assert "1 answers in rates-2026, read as “unranked answers”." in page.inner_text("#status")
    assert axe(page) == []
    page.click("#next")
    page.wait_for_selector("html[data-ready]")
    assert "Rate? <img src=x" in page.inner_text("main")
    assert problems == []


def test_what_is_wrong_with_a_file_is_said(url, open_page, problems):
    page = open_page(f"{url}/sources", viewport={"width": 390, "height": 800})
    page.set_input_files("#file", a_file({"prompt": "Rate?", "answers": ["a", "b"]}, {"prompt": EVIL},
                                         name=f"{EVIL.replace('/', '')}.jsonl"))
    page.fill("#name", "bad")
    page.keyboard.press("Enter")
    page.wait_for_selector("#status.bad")
    said = page.inner_text("#status")
    assert said.startswith("Nothing was stored. <img src=x") and ':2: "answers" is missing' in said
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert all("400" in p for p in problems)  # Chromium notes the refused request, and nothing else


def test_asking_the_models_by_keyboard(url, open_page, problems, axe, workspace):
    page = open_page(f"{url}/live")
    assert axe(page) == []
    page.keyboard.type("What is the rate?")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#next:visible")
    texts = page.locator("#written .text").all_inner_texts()
    assert len(texts) == 4 and all(EVIL in text for text in texts)
    assert axe(page) == []
    page.keyboard.press("Enter")  # the link to rank them has the focus
    page.wait_for_url("**/rank/live")
    page.wait_for_selector("html[data-ready]")
    assert "What is the rate?" in page.inner_text("main") and "tone" not in page.inner_text("main")
    assert problems == []


def test_stopping_at_390_px(url, open_page, problems, axe, engine, workspace):
    engine.endless = True
    page = open_page(f"{url}/live", viewport={"width": 390, "height": 800}, has_touch=True, color_scheme="dark")
    page.fill("textarea", "Rate?")
    page.tap("#ask")
    page.wait_for_selector("#written .text:has-text('and on and on')")
    page.tap("#stop")
    page.wait_for_selector("#status:has-text('Stopped')")
    assert engine.stopped.wait(5)
    engine.endless = None
    assert page.evaluate("document.documentElement.scrollWidth") <= 390 and axe(page) == []
    assert page.input_value("textarea") == "Rate?"
    assert "live" not in [s["name"] for s in workspace.group_sets()] and problems == []
