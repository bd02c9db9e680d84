"""What a verdict may say beside the order, undo, guidelines, claims and side-by-side reading, in a real Chromium."""

import json
import time

import pytest
from service_fakes import group, running

from tunesmith.records import Ranking
from tunesmith.service import create_app
from tunesmith.service.rank import FLAGS
from tunesmith.store import work
from tunesmith.store.project import Project, acknowledge, acknowledged, add_guidelines, set_project

pytestmark = pytest.mark.browser
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
LONG = "## Long\n\n" + "One sentence that goes on and on until the card is full. " * 80


@pytest.fixture
def page(open_page, url, workspace, problems):
    set_project(workspace, "desk", Project(ratings=True), "me")
    yield open_page(f"{url}/rank/desk")
    assert problems == []


def order(page):
    return page.eval_on_selector_all(".card", "cards => cards.map(c => Number(c.dataset.answer))")


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def stored(workspace, count, name="desk"):
    """The newest verdict, once there are so many."""
    end = time.monotonic() + 10
    while len(workspace.rankings(name)) < count and time.monotonic() < end:
        time.sleep(0.02)
    assert len(workspace.rankings(name)) == count
    return workspace.rankings(name)[-1]


def wait_for_next(page):
    page.get_by_text("Saved. Here is the next one.").wait_for()


def card(page, answer):
    return page.locator(f'.card[data-answer="{answer}"]')


# ---- partial rankings

def test_stop_here_by_pointer_and_take_it_back(page, workspace):
    a, b, c, _ = order(page)
    card(page, b).locator(".rest").click()
    assert page.locator(".place").all_inner_texts() == ["1", "–", "–", "–"]
    card(page, b).locator(".rest").click()  # undo
    assert page.locator(".place").all_inner_texts() == ["1", "2", "3", "4"]
    card(page, c).locator(".rest").click()
    page.click("#submit")
    assert stored(workspace, 1).tiers == ((a,), (b,))


def test_stop_here_by_keyboard_and_moves_across_the_line(page, workspace):
    a, b, c, d = order(page)
    press(page, "c", "r")
    assert "in the rest, not compared" in page.locator("#announce").inner_text()
    press(page, "d", "k")  # out of the rest, to the last ranked place
    assert order(page) == [a, b, d, c] and page.locator(".place").all_inner_texts() == ["1", "2", "3", "4"]
    press(page, "d", "r", "b", "j")  # d and c are the rest; b joins them
    assert page.locator(".left-out").count() == 3
    press(page, "Control+z")
    assert page.locator(".left-out").count() == 2
    press(page, "Enter")
    assert stored(workspace, 1).tiers == ((a,), (b,))


def test_stop_here_on_a_phone(open_page, url, workspace, problems):
    page = open_page(f"{url}/rank/desk", **PHONE)
    a, b, *_ = order(page)
    card(page, b).locator(".rest").tap()
    page.locator("#submit").tap()
    assert stored(workspace, 1).tiers == ((a,),)
    assert stored(workspace, 1).trace["device"] == "touch" and problems == []


# ---- flags, ratings, margin, note

def test_all_that_can_be_said_by_pointer(page, workspace):
    a, b, c, d = order(page)
    card(page, b).get_by_text("Report a problem").click()
    card(page, b).get_by_label("false").check()
    card(page, b).get_by_label("Another problem").fill("rude")
    card(page, b).get_by_text("false, rude").click()  # the summary says what is flagged, and closes
    for answer, value in zip([a, b, c, d], [7, 1, 5, 5]):
        card(page, answer).locator(f'.scale label:has([value="{value}"])').click()
    page.get_by_label("clearly", exact=True).check()
    page.get_by_text("Say why").click()
    page.locator("#note").fill("A is true.")
    card(page, b).locator(".down").click()
    page.click("#submit")
    verdict = stored(workspace, 1)
    assert verdict.flags == {str(b): ["false", "other: rude"]} and verdict.margin == 3
    assert [verdict.ratings[i] for i in (a, b, c, d)] == [7, 1, 5, 5] and verdict.rationale == "A is true."
    assert verdict.trace["moves"] == 1 and verdict.trace["device"] == "mouse"


def test_all_that_can_be_said_by_keyboard_alone(page, workspace):
    a, b, c, d = order(page)
    press(page, "b", "j", "p", "Space", "Tab", "Space", "Escape")  # the first two flags; back to the card
    assert page.evaluate("document.activeElement.dataset.answer") == str(b)
    for name, value in zip("abcd", [7, 1, 5, 6]):
        press(page, name, f"Shift+Digit{value}")
    press(page, "m", "Space", "ArrowRight", "Escape", "n")
    page.keyboard.type("Because a is true: xst")  # letters are text here
    press(page, "Control+Enter")
    verdict = stored(workspace, 1)
    assert verdict.flags == {str(b): list(FLAGS[:2])} and verdict.margin == 2
    assert [verdict.ratings[i] for i in (a, b, c, d)] == [7, 1, 5, 6]
    assert verdict.rationale == "Because a is true: xst" and verdict.trace["device"] == "keyboard"
    assert verdict.tiers == ((a,), (c,), (b,), (d,))


def test_rating_some_answers_only_is_asked_about(page, workspace):
    press(page, "a", "j", "Shift+Digit5", "Enter")
    page.get_by_text("Rate every answer or none: B, C, D still without").wait_for()
    assert workspace.rankings("desk") == []
    page.locator(".card .scale label:has(:checked)").click()  # a second click takes the rating back
    page.click("#submit")
    assert stored(workspace, 1).ratings == ()


def test_without_ratings_the_page_stays_plain(open_page, url):
    page = open_page(f"{url}/rank/desk")
    assert page.locator(".rate, [name=margin]").count() == 0
    press(page, "a", "Shift+Digit5", "m")
    assert page.locator("#status").inner_text() == ""


def test_a_skip_in_ones_own_words(page, workspace):
    press(page, "s")
    page.get_by_label("The other reason").fill("It is in Latin")
    page.locator("#skipping button[value=skip]").click()
    assert stored(workspace, 1).skipped == "It is in Latin"


# ---- unfinished work, undo, change

def test_a_reload_brings_unfinished_work_back(page, workspace):
    a, b, c, d = order(page)
    press(page, "d", "k", "k", "x", "n")
    page.keyboard.type("Half a thought")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.get_by_text("Your order of before is back.").wait_for()
    assert order(page) == [a, d, b, c] and page.locator("#note").input_value() == "Half a thought"
    assert page.get_attribute("#all-bad", "aria-pressed") == "true"
    page.click("#submit")
    verdict = stored(workspace, 1)
    assert verdict.tiers == ((a,), (d,), (b,), (c,)) and verdict.rationale == "Half a thought" and verdict.all_bad


@pytest.mark.parametrize("how", ["keyboard", "pointer", "phone"])
def test_undo_opens_the_last_verdict_and_the_change_counts(open_page, url, workspace, problems, how):
    page = open_page(f"{url}/rank/desk", **(PHONE if how == "phone" else {}))
    a, b, c, d = order(page)
    first = page.get_attribute("#answers", "data-group")
    press(page, "d", "k", "p", "Space", "Escape", "Enter")
    wait_for_next(page)
    second = page.get_attribute("#answers", "data-group")
    if how == "keyboard":
        press(page, "u")
    else:
        page.locator("#undo").click()
    page.get_by_text("You are changing your verdict").wait_for()
    page.wait_for_selector("html[data-ready]")
    assert page.get_attribute("#answers", "data-group") == first and order(page) == [a, b, d, c]
    assert card(page, d).locator(".given").inner_text() == "harmful"
    if how == "keyboard":
        press(page, "a", "j", "Enter")
    else:
        card(page, a).locator(".down").click()
        page.click("#submit")
    stored(workspace, 2)
    wait_for_next(page)
    assert page.get_attribute("#answers", "data-group") == second  # the work that waited
    latest = workspace.rankings("desk", latest=True)
    assert [r.tiers for r in latest] == [((b,), (a,), (d,), (c,))] and latest[0].flags == {str(d): ["harmful"]}
    assert problems == []


def test_a_verdict_changed_in_two_windows_shows_both(open_page, url, workspace, problems):
    claim = work.claim(workspace, "desk", "me")
    tiers = tuple((i,) for i in claim.shown)
    work.submit(workspace, Ranking("first-01", claim.group.id, "me", tiers, claim.shown), claim.token)
    page = open_page(f"{url}/mine/first-01")
    work.submit(workspace, Ranking("other-01", claim.group.id, "me", tiers[::-1], claim.shown, revises="first-01"))
    press(page, "b", "k", "Enter")
    page.get_by_text("This one was not stored").wait_for()
    assert page.locator("#conflict-mine").inner_text() == "B > A > C > D"
    assert page.locator("#conflict-newest").inner_text() == "D > C > B > A"
    page.get_by_role("button", name="Use mine instead").click()
    page.wait_for_url("**/mine")
    assert stored(workspace, 3).tiers == (tiers[1], tiers[0], *tiers[2:])
    assert [p for p in problems if "409" not in p] == []


def test_my_verdicts_by_keyboard(page, workspace):
    press(page, "b", "k", "Enter")
    wait_for_next(page)
    page.get_by_role("link", name="My verdicts").first.focus()
    press(page, "Enter")
    page.get_by_text("B > A > C > D").wait_for()
    page.get_by_role("link", name="Change the verdict").focus()
    press(page, "Enter")
    page.wait_for_selector("html[data-ready]")
    page.locator(".card").first.focus()
    press(page, "j", "Enter")
    page.wait_for_url("**/mine")
    page.get_by_text("A > B > C > D").wait_for()
    page.get_by_text("Changed once").focus()
    press(page, "Enter")
    assert page.get_by_text("B > A > C > D").is_visible()


# ---- claims

def test_leaving_gives_the_group_back_and_submitting_does_not(page, workspace):
    press(page, "b", "k", "Enter")
    wait_for_next(page)
    assert work.progress(workspace, "desk").live == 1
    page.goto(page.url.replace("/rank/desk", "/mine"))
    end = time.monotonic() + 5
    while work.progress(workspace, "desk").live and time.monotonic() < end:
        time.sleep(0.02)
    assert work.progress(workspace, "desk").live == 0 and len(workspace.rankings("desk")) == 1


def test_a_heartbeat_keeps_the_claim_and_hears_when_it_is_lost(open_page, url, workspace):
    set_project(workspace, "desk", Project(overlap=1, lease_seconds=30), "me")
    page = open_page(f"{url}/rank/desk")
    token = page.get_attribute("#answers", "data-token")
    before = work.claim(workspace, "desk", "me").until
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # comes back to the tab
    page.wait_for_timeout(300)
    assert work.claim(workspace, "desk", "me").until > before
    work.release(workspace, token, "me")
    while work.claim(workspace, "desk", "ana").group.id != page.get_attribute("#answers", "data-group"):
        taken = work.claim(workspace, "desk", "ana")
        work.submit(workspace, Ranking(f"a-{taken.token}", taken.group.id, "ana", ((0,), (1,)), taken.shown),
                    taken.token)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.get_by_text("this group was given to others in the meantime").wait_for()
    press(page, "b", "k", "Enter")
    page.get_by_text("This one was not stored").wait_for()
    assert page.locator("#conflict-mine").inner_text() == "B > A > C > D"
    press(page, "Escape")  # one's own order stays
    assert page.locator(".place").all_inner_texts() == ["1", "2", "3", "4"] and not page.locator("[inert]").count()


def test_signed_out_keeps_the_ranking_until_one_signs_in_again(open_page, url, workspace, signed_url):
    page = open_page(f"{url}/rank/desk")
    cookies = page.context.cookies()
    page.context.clear_cookies()
    press(page, "b", "k", "Enter")
    page.get_by_text("Not saved yet, will retry: you are signed out").wait_for()
    page.context.add_cookies(cookies)
    wait_for_next(page)
    assert len(workspace.rankings("desk")) == 1


def test_people_on_one_machine_have_their_own_outboxes(workspace, open_page):
    app = create_app(workspace)
    with running(app) as url:
        port = int(url.rsplit(":")[-1])
        page = open_page(f"{url}/rank/desk")
    press(page, "b", "k", "Enter")
    page.get_by_text("Not saved yet, will retry").wait_for()
    kept = page.evaluate("Object.entries(localStorage).find(([key]) => key.startsWith('tunesmith.outbox/me/'))")
    page.evaluate("localStorage.clear()")
    with running(app, port) as url:
        other = open_page(f"{url}/rank/desk", "ana", "labeler")
        other.evaluate("([key, text]) => localStorage.setItem(key, text)", kept)
        press(other, "c", "k", "Enter")
        wait_for_next(other)
        assert json.loads(other.evaluate("key => localStorage.getItem(key)", kept[0]))["body"]["group"]
    assert "ana" in {r.labeler for r in workspace.rankings("desk")}


# ---- guidelines

@pytest.mark.parametrize("how", ["keyboard", "phone"])
def test_guidelines_are_read_once_and_stay_at_hand(open_page, url, workspace, problems, how):
    add_guidelines(workspace, "desk", "# Rules\n\n- **True** first", "me")
    page = open_page(f"{url}/rank/desk", "ana", "labeler", **(PHONE if how == "phone" else {}))
    page.get_by_text("Before you begin").wait_for()
    if how == "phone":
        page.locator("#read").tap()
    else:
        page.locator("#read").focus()
        press(page, "Enter")
    page.wait_for_selector("#answers")
    page.wait_for_selector("html[data-ready]")
    assert acknowledged(workspace, "desk", "ana") == 1
    page.locator("#guidelines summary").click()
    assert page.locator("#guidelines strong").first.is_visible()
    press(page, "b", "k", "Enter")
    assert stored(workspace, 1).guidelines == 1
    assert problems == []


# ---- long answers

@pytest.fixture
def long(open_page, url, workspace, problems):
    workspace.add_groups("long", [group("Tell me.", LONG, "Short.", LONG.replace("One", "Another"))])
    yield open_page(f"{url}/rank/long")
    assert problems == []


def test_long_answers_are_folded_until_asked_for(long):
    box = card(long, 0)
    assert box.bounding_box()["height"] < 600
    box.get_by_role("button", name="Show all").click()
    assert box.bounding_box()["height"] > 600
    box.focus()
    press(long, "o")
    assert box.bounding_box()["height"] < 600
    assert not card(long, 1).locator(".more").is_visible()


def test_side_by_side_by_keyboard_alone(long, axe):
    a, b, c = order(long)
    press(long, "b", "v")
    columns = long.locator("#reader .column")
    assert [x.get_attribute("data-answer") for x in columns.all()] == [str(b), str(c)]
    press(long, "a")
    assert columns.count() == 3
    assert axe(long) == []
    press(long, "k")  # it has the focus, and is first already
    assert order(long) == [a, b, c]
    press(long, "b", "k")
    assert order(long) == [b, a, c]
    press(long, "Escape")
    assert not long.locator("#reader").is_visible()


def test_side_by_side_by_pointer(long):
    a, b, c = order(long)
    long.locator("#side-by-side").click()
    long.locator(f'#reader .column[data-answer="{b}"] .up').click()
    assert order(long) == [b, a, c]
    assert long.locator(f'#reader .column[data-answer="{b}"] .where').inner_text() == "place 1 of 3"
    long.locator("#reader [aria-label=Close]").click()
    assert order(long) == [b, a, c]


def test_a_phone_has_no_columns(open_page, url, workspace):
    page = open_page(f"{url}/rank/desk", **PHONE)
    assert not page.locator("#side-by-side").is_visible()
    press(page, "v")
    assert not page.locator("#reader").is_visible()


def test_every_key_in_the_help_means_something_and_no_two_the_same(page):
    keys = page.evaluate("import('/static/keys.js').then(k => k.KEYS)")
    told = set(page.eval_on_selector_all("#help kbd", "found => found.map(k => k.textContent.toLowerCase())"))
    assert set(keys) - {"u"} <= told | {"u"} and not set(keys) & set("abcdefghi")
    assert len(set(keys.values())) == len(keys)


# ---- for everybody

@pytest.mark.parametrize(("size", "scheme"), [
    pytest.param("wide", "light", marks=pytest.mark.slow), ("phone", "dark"),
    pytest.param("wide", "dark", marks=pytest.mark.slow), pytest.param("phone", "light", marks=pytest.mark.slow)])
def test_axe_finds_nothing(open_page, url, workspace, problems, axe, scheme, size):
    options = {"color_scheme": scheme, **(PHONE if size == "phone" else {})}
    set_project(workspace, "desk", Project(ratings=True), "me")
    add_guidelines(workspace, "desk", "# Rules\n\n- **True** first\n\n`code`", "me")
    table = "| a | b |\n|---|---|\n| 1 | [x](https://x.org) |\n\n```\ncode\n```"
    workspace.add_groups("desk", [group("Hm?", LONG, table, "> so\u202e it is ![p](https://x.org/p.png)")])
    page = open_page(f"{url}/rank/desk", **options)
    assert axe(page) == []
    acknowledge(workspace, "desk", 1, "me")
    for n in range(4):
        page.goto(f"{url}/rank/desk")
        page.wait_for_selector("html[data-ready]")
        press(page, "b", "k", "p", "Space", "Escape", "a", "t", "x", "c", "r")
        assert axe(page) == []
        if n == 0:
            page.click("#skip")
            assert axe(page) == []
            press(page, "Escape")
        with page.expect_navigation():
            page.click("#submit")
    for path in ("/", "/mine", "/rank/desk", "/sets/desk/names", "/mine?set=desk"):
        page.goto(url + path)
        assert axe(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], path
    page.goto(f"{url}/rank/desk/undo")
    page.wait_for_selector("html[data-ready]")
    assert axe(page) == [] and problems == []
