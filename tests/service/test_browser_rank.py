"""Ranking in a real Chromium: what the store holds must be what the person saw and did."""

import json
import threading
import time

import pytest
from service_fakes import group, running

from tunesmith.service import create_app
from tunesmith.service.rank import Submission
from tunesmith.store import work

pytestmark = pytest.mark.browser
EVIL = ['<script>alert(1)</script>', '<img src=x onerror=alert(2)>', '"><svg onload=alert(3)>', "javascript:alert(4)",
        "{{ 7*7 }}${7*7}"]


@pytest.fixture
def page(open_page, url, problems):
    yield open_page(f"{url}/rank/desk")
    assert problems == []


def order(page):
    """Answer indices from top to bottom."""
    return page.eval_on_selector_all(".card", "cards => cards.map(c => Number(c.dataset.answer))")


def on_page(page, workspace):
    return workspace.group(page.get_attribute("#answers", "data-group"))


def wait_for_rankings(workspace, count, name="desk"):
    end = time.monotonic() + 10
    while len(workspace.rankings(name)) < count and time.monotonic() < end:
        time.sleep(0.02)
    stored = workspace.rankings(name)
    assert len(stored) == count
    return stored[-1]


def wait_for_next(page):
    page.get_by_text("Saved. Here is the next one.").wait_for()


def drag(page, answer, to, at):
    """Drag the card of `answer` by its handle to the card `to`, at that share of its height."""
    handle = page.locator(f'.card[data-answer="{answer}"] .handle').bounding_box()
    card = page.locator(f'.card[data-answer="{to}"]').bounding_box()
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(card["x"] + 300, card["y"] + card["height"] * 0.5, steps=5)
    page.mouse.move(card["x"] + 30, card["y"] + card["height"] * at, steps=5)
    page.mouse.up()


def outbox(page, person="me"):
    """What waits in the browser's storage."""
    found = page.evaluate("({...localStorage})")
    return [json.loads(text) for key, text in found.items() if key.startswith(f"tunesmith.outbox/{person}/")]


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def test_rank_by_dragging(page, workspace):
    group = on_page(page, workspace)
    a, b, c, d = shown = order(page)
    texts = page.locator(".card .text").all_inner_texts()
    assert texts == [group.answers[i].text for i in shown]
    drag(page, a, d, 0.9)
    assert order(page) == [b, c, d, a]
    drag(page, d, b, 0.1)
    assert order(page) == [d, b, c, a]
    drag(page, c, c, 0.2)  # dropped on its own place
    assert order(page) == [d, b, c, a]
    drag(page, a, b, 0.5)  # onto the middle of b: tied
    assert order(page) == [d, b, a, c]
    assert page.locator(".card.joined").get_attribute("data-answer") == str(a)
    page.click("#submit")
    ranking = wait_for_rankings(workspace, 1)
    assert ranking.tiers == ((d,), (b, a), (c,)) and ranking.shown == (a, b, c, d)
    assert (ranking.group, ranking.labeler, ranking.all_bad, ranking.skipped) == (group.id, "me", False, "")
    assert 0 < ranking.seconds < 20
    wait_for_next(page)
    assert "1 of 3" in page.locator(".counts").inner_text()


def test_escape_takes_a_drag_back(page):
    before = order(page)
    handle = page.locator(".card .handle").first.bounding_box()
    page.mouse.move(handle["x"] + 5, handle["y"] + 20)
    page.mouse.down()
    page.mouse.move(handle["x"] + 5, handle["y"] + 400, steps=4)
    press(page, "Escape")
    page.mouse.up()
    assert order(page) == before and page.locator(".dragging, .sorting, .drop-before, .drop-on").count() == 0


def test_rank_by_keyboard_alone(page, workspace):
    a, b, c, d = order(page)
    press(page, "c", "k", "k")  # c to the top
    assert order(page) == [c, a, b, d]
    assert page.evaluate("document.activeElement.dataset.answer") == str(c)  # focus stays on what moved
    assert "place 1 of 4" in page.locator("#announce").inner_text()
    press(page, "Alt+ArrowDown")
    assert order(page) == [a, c, b, d]
    press(page, "ArrowDown", "ArrowDown", "t")  # to d, tie with b
    assert "place 3 of 4, tied with B" in page.locator("#announce").inner_text()
    press(page, "1", "j")  # the first place, down
    assert order(page) == [c, a, b, d]
    press(page, "Enter")
    ranking = wait_for_rankings(workspace, 1)
    assert ranking.tiers == ((c,), (a,), (b, d)) and ranking.shown == (a, b, c, d)
    wait_for_next(page)
    assert page.evaluate("document.activeElement.dataset.name") == "A"  # ready for the next keys
    press(page, "j", "Enter")
    wait_for_rankings(workspace, 2)
    wait_for_next(page)
    press(page, "j", "Enter")
    page.get_by_text("tunesmith reward --model desk@1 --comparisons desk").wait_for()
    assert len({r.id for r in workspace.rankings("desk")}) == 3


def test_ties_join_split_and_move(page, workspace):
    a, b, c, d = order(page)
    press(page, "b", "t", "c", "t")  # a = b = c
    assert page.locator(".place").all_inner_texts() == ["=1", "=1", "=1", "4"]
    press(page, "b", "j")  # out of the tie, below it
    assert order(page) == [a, c, b, d] and page.locator(".place").all_inner_texts() == ["=1", "=1", "3", "4"]
    press(page, "c", "t")  # split
    assert page.locator(".place").all_inner_texts() == ["1", "2", "3", "4"]
    page.locator(f'.card[data-answer="{d}"] .tie').click()
    page.locator(f'.card[data-answer="{c}"] .up').click()
    page.locator(f'.card[data-answer="{a}"] .down').click()  # past the tie of b and d
    page.click("#submit")
    assert wait_for_rankings(workspace, 1).tiers == ((c,), (b, d), (a,))


def test_all_bad(page, workspace):
    a, b, c, d = order(page)
    press(page, "x")
    assert page.get_attribute("#all-bad", "aria-pressed") == "true"
    press(page, "x", "d", "k", "x", "Enter")
    ranking = wait_for_rankings(workspace, 1)
    assert ranking.all_bad and ranking.tiers == ((a,), (b,), (d,), (c,))


def test_skip_with_a_reason_and_without(page, workspace):
    first = on_page(page, workspace)
    press(page, "s")
    page.get_by_label("The conversation is unclear").check()
    page.locator("#skipping button[value=skip]").click()
    ranking = wait_for_rankings(workspace, 1)
    assert (ranking.group, ranking.skipped, ranking.tiers) == (first.id, "The conversation is unclear", ())
    assert len(ranking.shown) == 4
    wait_for_next(page)
    press(page, "s", "Escape")
    page.locator("#skipping").wait_for(state="hidden")
    press(page, "s", "Enter")
    assert wait_for_rankings(workspace, 2).skipped == "No reason given"


def test_an_untouched_order_is_asked_about(page, workspace):
    shown = order(page)
    page.click("#submit")
    page.get_by_text("You kept the order shown. Submit as it is?").wait_for()
    page.get_by_role("button", name="Keep ranking").first.click()
    assert workspace.rankings("desk") == []
    page.click("#submit")
    page.get_by_role("button", name="Submit as it is").click()
    assert wait_for_rankings(workspace, 1).tiers == tuple((i,) for i in shown)
    wait_for_next(page)
    press(page, "Enter")
    page.get_by_role("button", name="All equally good").click()
    assert [len(t) for t in wait_for_rankings(workspace, 2).tiers] == [4]


def test_the_outbox_survives_a_lost_server_and_a_reload(workspace, open_page):
    app = create_app(workspace)
    with running(app) as url:
        port = int(url.rsplit(":")[-1])
        page = open_page(f"{url}/rank/desk")
        a, b, c, d = order(page)
    press(page, "d", "k", "k", "k", "Enter")  # the server is gone
    page.get_by_text("Not saved yet, will retry").wait_for()
    waiting = outbox(page)
    assert [e["body"]["tiers"] for e in waiting] == [[[d], [a], [b], [c]]]
    assert set(waiting[0]["body"]) == set(Submission.model_fields)
    assert "percent" not in json.dumps(waiting)  # no text of the data
    assert workspace.rankings("desk") == []
    with running(app, port):
        wait_for_next(page)
        assert wait_for_rankings(workspace, 1).tiers == ((d,), (a,), (b,), (c,))
        assert outbox(page) == []


def test_a_reply_lost_on_the_way_back_stores_once(open_page, url, workspace):
    """The server commits, the reply is lost, the page sends again under the same id."""
    page, lost, again = open_page(f"{url}/rank/desk"), [], []

    def lose_the_reply(route):
        if lost:
            again.append(route)  # held back until the page has been seen to wait
            return
        route.fetch()
        lost.append(1)
        route.abort()

    page.route("**/api/rankings", lose_the_reply)
    press(page, "b", "k", "Enter")
    page.get_by_text("Not saved yet, will retry").wait_for()
    while not again:
        page.wait_for_timeout(50)
    again[0].continue_()
    wait_for_next(page)
    assert len(workspace.rankings("desk")) == 1


def test_a_full_disk_keeps_the_ranking(open_page, url, workspace, monkeypatch):
    from tunesmith.errors import StorageError

    page, store, tries, seen = open_page(f"{url}/rank/desk"), work.submit, [], threading.Event()

    def full_once(workspace, ranking, token):
        tries.append(ranking)
        if len(tries) == 1:
            raise StorageError("no space left on the disk")
        seen.wait(20)
        return store(workspace, ranking, token)

    monkeypatch.setattr(work, "submit", full_once)
    press(page, "b", "k", "Enter")
    page.get_by_text("Not saved yet, will retry: no space left on the disk").wait_for()
    seen.set()
    wait_for_next(page)
    assert wait_for_rankings(workspace, 1) == tries[0] == tries[1]


def test_a_refused_ranking_says_so_and_lets_go(open_page, url, workspace):
    page = open_page(f"{url}/rank/desk")
    page.evaluate("document.getElementById('answers').dataset.group = 'unknown-group'")
    press(page, "b", "k", "Enter")
    page.get_by_text("Not saved: the verdict is on another group").wait_for()
    assert outbox(page) == [] and not page.locator("[inert]").count()


def test_payloads_in_prompt_and_answers_stay_text(workspace, open_page, problems):
    workspace.add_groups("evil", [group(" ".join(EVIL), *EVIL[:4], model=EVIL[1])])
    with running(create_app(workspace, labeler=EVIL[1])) as url:
        page = open_page(f"{url}/rank/evil", EVIL[1])
        assert all(payload in page.inner_text("main") for payload in EVIL[:4])
        page.get_by_label("Text as it was written").check()  # the last one holds a Markdown emphasis
        assert all(payload in page.inner_text("main") for payload in EVIL[:4])
        press(page, "b", "k", "Enter")
        page.get_by_text("All done").wait_for()
        page.goto(url)
        assert "alert" in page.inner_text("main")
        page.goto(f"{url}/rank/%3Cimg%20src=x%20onerror=alert(5)%3E")
        assert "onerror" in page.inner_text("main")
    assert [p for p in problems if "404" not in p] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_sideways_scrolling(open_page, url, workspace, problems, scheme):
    workspace.add_groups("long", [group("word" * 200, *("long" * 90 + str(i) + " text" * 60 for i in range(9)))])
    page = open_page(f"{url}/rank/long", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True,
                     color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator(".card").count() == 9
    sizes = page.eval_on_selector_all(
        ".tools button, .handle, .actions button, .gap button:not([hidden]), .judge summary",
        "found => found.map(e => e.getBoundingClientRect()).map(r => Math.min(r.width, r.height))")
    assert min(sizes) >= 24  # WCAG 2.2 SC 2.5.8
    assert page.locator("#submit").is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('.handle')).touchAction") == "none"
    assert page.evaluate("getComputedStyle(document.querySelector('.card .text')).touchAction") == "auto"
    assert problems == []


def test_a_finger_scrolls_on_text_and_drags_on_the_handle(open_page, url, workspace):
    page = open_page(f"{url}/rank/desk", viewport={"width": 390, "height": 500}, has_touch=True, is_mobile=True)
    finger = page.context.new_cdp_session(page)

    def swipe(x, y, to):
        finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for i in range(1, 11):
            at = {"x": x, "y": y + (to - y) * i / 10}
            finger.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [at]})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_timeout(100)

    before = order(page)
    page.evaluate("scrollTo(0, 0)")
    swipe(200, 400, 150)
    assert page.evaluate("scrollY") > 50 and order(page) == before
    page.locator(".card").nth(1).scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#answers').scrollIntoView()")
    scrolled = page.evaluate("scrollY")
    handle = page.locator(".card").nth(0).locator(".handle").bounding_box()
    second = page.locator(".card").nth(1).bounding_box()
    swipe(handle["x"] + 20, handle["y"] + 24, second["y"] + second["height"] * 0.9)
    assert order(page) == [before[1], before[0], before[2], before[3]]
    assert abs(page.evaluate("scrollY") - scrolled) < 20  # the finger's way was over 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(open_page, url, scheme):
    page = open_page(f"{url}/rank/desk", color_scheme=scheme)
    press(page, "b", "t", "x")
    ratios = page.evaluate(CONTRAST)
    low = {name: ratio for name, ratio in ratios.items() if ratio < 4.5}
    assert len(ratios) > 20 and low == {}


def test_names_roles_and_help(page):
    first = page.get_by_role("listitem", name="Answer A, place 1 of 4")
    assert first.count() == 1
    assert page.get_by_role("button", name="Move answer B up").count() == 1
    assert page.get_by_role("button", name="Answer B tied with the one above").get_attribute("aria-pressed") == "false"
    press(page, "a", "k")
    assert "Answer A stays: place 1 of 4" in page.locator("#announce").inner_text()
    assert page.locator("#help dl").is_visible()
    press(page, "?")
    assert not page.locator("#help dl").is_visible()
    press(page, "?")
    page.get_by_label("Single-letter keys").uncheck()
    before = order(page)
    page.locator(".card").nth(1).focus()
    press(page, "k", "x")
    assert order(page) == before and page.get_attribute("#all-bad", "aria-pressed") == "false"
    press(page, "Alt+ArrowUp")
    assert order(page) == [before[1], before[0], *before[2:]]


def test_tiers_module(page):
    """The page's arithmetic on its own, where the expected tiers are written out."""
    cases = {
        "raise([[0], [1], [2]], 2)": [[0], [2], [1]], "raise([[0], [1]], 0)": [[0], [1]],
        "raise([[0], [1, 2]], 2)": [[0], [2], [1]], "raise([[0, 1], [2]], 2)": [[2], [0, 1]],
        "lower([[0], [1], [2]], 0)": [[1], [0], [2]], "lower([[0], [1]], 1)": [[0], [1]],
        "lower([[0, 1], [2]], 0)": [[1], [0], [2]], "lower([[0], [1, 2]], 0)": [[1, 2], [0]],
        "toggleTie([[0], [1], [2]], 1)": [[0, 1], [2]], "toggleTie([[0, 1, 2]], 1)": [[0], [1, 2]],
        "toggleTie([[0], [1]], 0)": [[0], [1]], "toggleTie([[0], [1, 2]], 1)": [[0, 1, 2]],
        "dropAt([[0], [1], [2]], 0, 2)": [[1], [2], [0]], "dropAt([[0], [1], [2]], 2, 0)": [[2], [0], [1]],
        "dropAt([[0, 1], [2]], 2, 1)": [[0, 2, 1]], "dropAt([[0, 1], [2]], 2, 2)": [[0, 1], [2]],
        "dropAt([[0, 1], [2]], 0, 1)": [[1], [0], [2]],
        "dropOn([[0], [1], [2]], 2, 0)": [[0, 2], [1]], "dropOn([[0, 1], [2]], 0, 2)": [[1], [2, 0]],
        "places([[3], [0, 1], [2]])": [1, 2, 4],
        # with a rest: {2, 3} below all others, not compared
        "lower([[0], [1], [2, 3]], 1, true)": [[0], [1, 2, 3]], "lower([[0], [2, 3]], 2, true)": [[0], [2, 3]],
        "lower([[0, 1], [2, 3]], 0, true)": [[1], [0], [2, 3]], "raise([[0], [2, 3]], 3)": [[0], [3], [2]],
        "toggleTie([[0], [1], [2, 3]], 3, true)": [[0], [1], [2, 3]],
        "dropAt([[0], [1], [2, 3]], 0, 3, true)": [[1], [2, 3, 0]],
        "dropAt([[0], [1], [2, 3]], 0, 1, true)": [[1], [0], [2, 3]],
        "toggleRest([[0], [1], [2], [3]], 2)": {"tiers": [[0], [1], [2, 3]], "rest": True},
        "toggleRest([[0, 1], [2]], 1)": {"tiers": [[0], [1, 2]], "rest": True},  # cuts a tie
        "toggleRest([[0], [1], [2, 3]], 3, true)": {"tiers": [[0], [1], [2], [3]], "rest": False},
        "toggleRest([[0], [1], [2]], 0)": {"tiers": [[0], [1], [2]], "rest": False},  # something must be ranked
        "toggleRest([[0], [1], [2]], 2)": {"tiers": [[0], [1], [2]], "rest": False},  # it is last already
    }
    for call, expected in cases.items():
        got = page.evaluate(f"import('/static/tiers.js').then(t => t.{call})")
        assert got == expected, call


CONTRAST = """() => {
  const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const found = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !e.checkVisibility() || e.closest('.hidden')) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    found[walker.currentNode.textContent.trim().slice(0, 30) + ' ' + e.tagName] = (a + 0.05) / (b + 0.05);
  }
  return found;
}"""
