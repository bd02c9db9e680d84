"""The demonstration desk in a real Chromium: by pointer, by keyboard alone, and on a phone."""

import json
import shutil

import pytest

from tunesmith.records import Demonstration, Message
from tunesmith.store import desk
from tunesmith.store.desk import Review

pytestmark = pytest.mark.browser
FLAGS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
         "--disable-background-networking"]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
ANSWER = "You can pay early at any time.\n\n* No fee up to **10,000 euro** a year.\n* Above that, *one percent*."


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        pytest.skip("Chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def problems():
    """Console errors, CSP violations and page errors; a test ends with none."""
    found = []
    yield found
    assert found == []


@pytest.fixture
def open_page(chromium, problems, signed_url, url):
    contexts = []

    def open_page(path, name="me", role="admin", ready=True, **options):
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, "reduced_motion": "reduce",
                                          **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: problems.append(str(e)))
        page.goto(signed_url(f"{url}{path}", name, role))
        page.wait_for_url(lambda now: "/enter" not in now)
        if ready:
            page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def drafts(workspace):
    """Three imported drafts, the oldest first."""
    for n in range(3):
        messages = (Message("system", "You are the loan desk."), Message("user", f"Can I pay early {n}?"),
                    Message("assistant", ANSWER if n == 0 else f"Yes, you can {n}."))
        desk.add(workspace, "loans", [Demonstration(messages)], origin="imported", author="import")
    return [d.id for d in desk.listed(workspace, "loans")][::-1]


def state(workspace, id):
    return desk.draft(workspace, id).state


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def at(page, id):
    """Wait until the page of a draft is there."""
    page.wait_for_url(f"**/desk/loans/{id}")
    page.wait_for_selector("html[data-ready]")


def axe(page):
    """What axe finds wrong with a page, in light and dark."""
    axe_core = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        result = axe_core.Axe().run(page)
        found += [(scheme, v["id"], [n["target"] for n in v["nodes"]]) for v in result.response["violations"]]
    return found


# ---- reviewing

def test_review_by_pointer(open_page, workspace, drafts):
    page = open_page("/desk", ready=False)
    page.click("text=Review 3")
    at(page, drafts[0])
    assert page.locator(".proposed strong").inner_text() == "10,000 euro"  # Markdown as it looks
    page.click("#accept")
    at(page, drafts[1])
    assert "Accepted. Here is the next one." in page.inner_text("#status")
    page.click("#edit")
    page.fill(".proposed textarea", "Yes, at any time.")
    page.click("#save")
    at(page, drafts[2])
    page.click("#reject")
    page.click("#rejecting >> text=Keep it")
    page.click("#reject")
    page.click("#rejecting button.primary")  # no reason yet
    assert page.inner_text("#missing") == "Choose at least one reason."
    page.click("#rejecting >> text=Unhelpful")
    page.click("#rejecting >> text=Other")
    page.click("#rejecting button.primary")
    assert page.inner_text("#missing") == "Say what is wrong."
    page.fill("#note", "It says nothing.")
    page.click("#rejecting button.primary")
    page.wait_for_url("**/desk/loans?done=1")
    assert "Nothing is left for you to review." in page.inner_text("main")
    assert [state(workspace, id) for id in drafts] == ["accepted", "accepted", "rejected"]
    assert desk.draft(workspace, drafts[1]).current.messages[-1].content == "Yes, at any time."
    last = desk.draft(workspace, drafts[2]).reviews[0]
    assert (last.reasons, last.note) == (("unhelpful", "other"), "It says nothing.")


def test_review_by_keyboard_alone(open_page, workspace, drafts):
    page = open_page("/desk/loans/next")
    press(page, "n")
    at(page, drafts[1])
    press(page, "ArrowLeft")
    at(page, drafts[0])
    press(page, "p")
    at(page, drafts[2])
    press(page, "r", "1", "3", "1", "4")
    assert page.eval_on_selector_all("[name=reason]:checked", "b => b.map(x => x.value)") == ["biased", "unhelpful"]
    press(page, "Enter")
    at(page, drafts[0])
    assert state(workspace, drafts[2]) == "rejected"
    press(page, "e", "Control+End")
    page.keyboard.type(" a r u")  # letters are text now
    press(page, "Control+Enter")
    at(page, drafts[1])
    assert desk.draft(workspace, drafts[0]).current.messages[-1].content == f"{ANSWER} a r u"
    assert state(workspace, drafts[0]) == "accepted"
    press(page, "a")
    page.wait_for_url("**/desk/loans?done=1")
    assert state(workspace, drafts[1]) == "accepted"


def test_review_on_a_phone(open_page, workspace, drafts):
    page = open_page("/desk", ready=False, **PHONE)
    page.tap("text=Review 3")
    at(page, drafts[0])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.tap("#edit")
    page.locator(".proposed textarea").fill("Yes.")
    page.tap("#save")
    at(page, drafts[1])
    page.tap("#reject")
    page.tap("#rejecting >> text=Toxic")
    page.tap("#rejecting button.primary")
    at(page, drafts[2])
    page.tap("#accept")
    page.wait_for_url("**/desk/loans?done=1")
    assert [state(workspace, id) for id in drafts] == ["accepted", "rejected", "accepted"]
    small = page.eval_on_selector_all(".button", "all => all.filter(b => b.getBoundingClientRect().height < 44).length")
    assert small == 0


def test_going_back_to_the_last_one_and_deciding_otherwise(open_page, workspace, drafts):
    page = open_page(f"/desk/loans/{drafts[0]}")
    press(page, "a")
    at(page, drafts[1])
    press(page, "u")
    at(page, drafts[0])
    assert "It was accepted" in page.inner_text("main")
    page.click("#put-back")
    page.get_by_text("Put back.", exact=True).wait_for()
    assert state(workspace, drafts[0]) == "pending"
    press(page, "r", "2", "Enter")
    at(page, drafts[1])
    assert [r.verdict for r in desk.draft(workspace, drafts[0]).reviews] == ["accepted", "pending", "rejected"]


def test_an_edit_is_shown_as_a_diff(open_page, workspace, drafts):
    page = open_page(f"/desk/loans/{drafts[1]}")
    press(page, "e")
    page.fill(".conversation [data-turn='1'] textarea", "May I pay early 1?")
    page.fill(".proposed textarea", "Yes, you may 1.")
    press(page, "Control+Enter")
    at(page, drafts[2])
    press(page, "u")
    at(page, drafts[1])
    diffs = page.locator(".diff").all()
    assert [d.locator("del").all_inner_texts() for d in diffs] == [["Can"], ["can"]]
    assert [d.locator("ins").all_inner_texts() for d in diffs] == [["May"], ["may"]]
    assert axe(page) == []


def test_an_edit_outlives_a_reload_and_is_dropped_only_when_meant(open_page, workspace, drafts):
    page = open_page(f"/desk/loans/{drafts[0]}")
    page.on("dialog", lambda dialog: dialog.accept())
    press(page, "e")
    page.fill(".proposed textarea", "Half an ans")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.input_value(".proposed textarea") == "Half an ans"
    assert "still here" in page.inner_text("#status")
    press(page, "Escape")
    assert "not saved" in page.inner_text("#status") and page.input_value(".proposed textarea") == "Half an ans"
    press(page, "Escape")
    assert page.locator(".proposed textarea").is_hidden()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.locator(".proposed textarea").is_hidden()
    assert desk.draft(workspace, drafts[0]).reviews == ()


def test_a_lost_connection_loses_nothing(open_page, workspace, drafts, problems):
    page = open_page(f"/desk/loans/{drafts[0]}")
    page.context.set_offline(True)
    press(page, "a")
    page.get_by_text("Not saved yet, will retry").wait_for()
    assert state(workspace, drafts[0]) == "pending"
    page.context.set_offline(False)
    at(page, drafts[1])
    assert state(workspace, drafts[0]) == "accepted" and len(desk.draft(workspace, drafts[0]).reviews) == 1
    assert all("ERR_INTERNET_DISCONNECTED" in p for p in problems)
    problems.clear()


def test_a_decision_of_somebody_else_in_the_meantime(open_page, workspace, drafts, problems):
    page = open_page(f"/desk/loans/{drafts[0]}")
    press(page, "e")
    page.fill(".proposed textarea", "Mine.")
    desk.review(workspace, drafts[0], Review("review-01", "rev", "rejected", ("toxic",)), role="admin", seen=0)
    press(page, "Control+Enter")
    page.get_by_text("rev decided on this draft in the meantime").wait_for()
    assert page.input_value(".proposed textarea") == "Mine."  # one's own work stays
    assert state(workspace, drafts[0]) == "rejected"
    assert all("409" in p for p in problems)
    problems.clear()


def test_single_letter_keys_can_be_switched_off(open_page, workspace, drafts):
    page = open_page(f"/desk/loans/{drafts[0]}")
    page.uncheck("#letters")
    page.locator("h1").click()
    press(page, "a")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    press(page, "a")
    assert state(workspace, drafts[0]) == "pending" and not page.is_checked("#letters")


# ---- writing

def test_write_by_keyboard_alone(open_page, workspace):
    page = open_page("/desk", "ann", "labeler", ready=False)
    page.focus("#name")
    page.keyboard.type("loans")
    press(page, "Enter")
    page.wait_for_selector("html[data-ready]")
    page.keyboard.type("Can I pay early?")
    press(page, "Tab")
    page.keyboard.type("Yes.\nAt any time.")
    press(page, "Control+Enter")
    page.get_by_text("Saved. Write the next one.").wait_for()
    page.keyboard.type("How do I do it?")  # the next one can begin at once
    press(page, "Tab")
    page.keyboard.type("Call us.")
    press(page, "Control+Enter")
    page.locator("#turns textarea:focus").and_(page.locator("#turns [data-role=user] textarea")).wait_for()
    found = desk.listed(workspace, "loans")
    assert [[m.content for m in d.current.messages] for d in found] == [
        ["How do I do it?", "Call us."], ["Can I pay early?", "Yes.\nAt any time."]]
    assert {(d.author, d.origin, d.state) for d in found} == {("ann", "written", "pending")}


def test_write_a_conversation_by_pointer(open_page, workspace):
    page = open_page("/desk/loans/write", "ann", "labeler")
    page.click("#add-system")
    page.click("#add-turns")
    page.click("#add-turns")
    page.locator(".remove").last.click()
    for n, text in enumerate(["You are the loan desk.", "Hello", "Good day.", "Can I pay early?", "Yes."]):
        page.locator("#turns textarea").nth(n).fill(text)
    page.click("#save")
    page.get_by_text("Saved. Write the next one.").wait_for()
    draft = desk.listed(workspace, "loans")[0]
    assert [m.role for m in draft.current.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert page.locator("#turns textarea").count() == 3  # the instructions stay for the next one
    assert page.input_value("#turns textarea >> nth=0") == "You are the loan desk."
    page.click("#last")
    at(page, draft.id)
    assert "It waits for a reviewer." in page.inner_text("main") and page.locator("#accept").count() == 0
    page.click("#edit")
    page.fill(".proposed textarea", "Yes, at any time.")
    page.click("#save")
    page.get_by_text("Changed.", exact=True).wait_for()
    assert desk.draft(workspace, draft.id).current.messages[-1].content == "Yes, at any time."


def test_write_on_a_phone_and_what_is_empty_is_named(open_page, workspace):
    page = open_page("/desk/loans/write", "ann", "labeler", **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#turns textarea").first.fill("Can I pay early?")
    page.tap("#save")
    assert page.inner_text("#status") == "This turn is still empty."
    assert page.evaluate("document.activeElement.closest('.turn').dataset.role") == "assistant"
    page.locator("#turns textarea").last.fill("Yes.")
    page.tap("#save")
    page.get_by_text("Saved. Write the next one.").wait_for()
    assert desk.find(workspace, "loans").pending == 1


def test_what_was_written_outlives_a_reload(open_page, workspace):
    page = open_page("/desk/loans/write", "ann", "labeler")
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#add-system")
    page.click("#add-turns")
    page.locator("#turns textarea").nth(1).fill("Can I pay early?")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.eval_on_selector_all("#turns textarea", "all => all.map(t => t.value)") == [
        "", "Can I pay early?", "", "", ""]
    assert json.loads(page.evaluate("sessionStorage['tunesmith.writing.loans']"))


# ---- what all pages share

@pytest.mark.parametrize("options", [pytest.param({}, marks=pytest.mark.slow), PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing(open_page, workspace, drafts, options):
    page = open_page("/desk", ready=False, **options)
    assert axe(page) == []
    for path in ("/desk/loans", f"/desk/loans/{drafts[0]}", "/desk/loans/write"):
        page.goto(page.url.split("/desk")[0] + path)
        assert axe(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= (390 if options else 1200), path
    page.goto(page.url.split("/desk")[0] + f"/desk/loans/{drafts[0]}")
    page.wait_for_selector("html[data-ready]")
    page.click("#edit")
    assert axe(page) == []
    page.click("#drop")
    page.click("#reject")
    assert axe(page) == []
