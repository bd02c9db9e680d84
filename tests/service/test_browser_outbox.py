"""Verdicts on their way to the server, in a real Chromium: none is lost, none is stored under another name."""

import pytest
from service_fakes import running
from test_browser_rank import order, outbox, press, wait_for_next

from tunesmith.service import create_app
from tunesmith.store import work
from tunesmith.store.project import Project, set_project

pytestmark = pytest.mark.browser


@pytest.fixture
def page(open_page, url):
    return open_page(f"{url}/rank/desk")


def refuse(page, *, status=503, count=1000):
    """The server answers that often that it cannot; a list of the bodies it was sent."""
    seen = []

    def answer(route):
        seen.append(route.request.post_data_json)
        if len(seen) > count:
            return route.continue_()
        return route.fulfill(status=status, json={"error": {"message": "busy"}})

    page.route("**/api/rankings", answer)
    return seen


def stored(page, workspace, count=1):
    """The newest verdict, once there are so many; the page goes on meanwhile."""
    for _ in range(200):
        if len(workspace.rankings("desk")) >= count:
            break
        page.wait_for_timeout(50)
    assert len(workspace.rankings("desk")) == count
    return workspace.rankings("desk")[-1]


def submit_in_vain(page):
    press(page, "b", "k", "Enter")
    page.get_by_text("Not saved yet, will retry").wait_for()


def test_on_a_plain_name_of_the_network(page, workspace):
    """There, browsers have no crypto.randomUUID."""
    page.add_init_script("delete Crypto.prototype.randomUUID")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    a, b, c, d = order(page)
    press(page, "b", "k", "Enter")
    wait_for_next(page)
    assert stored(page, workspace).tiers == ((b,), (a,), (c,), (d,))
    page.goto(page.url.replace("/rank/desk", "/desk/loans/write"))
    page.wait_for_selector("html[data-ready]")
    page.keyboard.type("Which rate?")
    press(page, "Tab")
    page.keyboard.type("It is 7.5.")
    press(page, "Control+Enter")
    page.get_by_text("Saved. Write the next one.").wait_for()


def test_closing_the_tab_keeps_the_place_of_a_verdict_on_its_way(page, open_page, url, workspace):
    set_project(workspace, "desk", Project(overlap=1), "me")
    refuse(page)
    submit_in_vain(page)
    page.goto("about:blank")
    page.wait_for_timeout(300)
    assert work.progress(workspace, "desk").live == 1  # nobody else gets it
    page.unroute("**/api/rankings")
    page.goto(f"{url}/")  # any page of the studio sends it
    stored(page, workspace)


def test_nobody_sends_what_another_one_judged(page, url, workspace, signed_url):
    refuse(page)
    submit_in_vain(page)

    def sign_in(name, role):
        tab.goto(signed_url(f"{url}/", name, role))
        if tab.get_by_role("button").count():
            tab.get_by_role("button").first.click()
        tab.wait_for_url(f"{url}/")

    tab = page.context.new_page()
    sign_in("ana", "labeler")  # on the same machine
    page.unroute("**/api/rankings")
    page.evaluate("dispatchEvent(new Event('online'))")
    page.get_by_text("ana is signed in now").wait_for()
    assert workspace.rankings("desk") == [] and outbox(page)
    sign_in("me", "admin")
    page.evaluate("dispatchEvent(new Event('online'))")
    assert stored(page, workspace).labeler == "me"


@pytest.mark.parametrize("storage", ["full", "forbidden"])
def test_without_storage_the_verdict_is_sent_all_the_same(page, workspace, storage):
    page.add_init_script("Storage.prototype.setItem = () => { throw new DOMException('full') };"
                         + ("Storage.prototype.getItem = Storage.prototype.setItem" if storage == "forbidden" else ""))
    page.reload()
    page.wait_for_selector("html[data-ready]")
    refuse(page, count=1)
    submit_in_vain(page)
    stored(page, workspace)
    page.wait_for_selector("[inert]", state="detached")  # the next one


def test_two_tabs_with_one_outbox_both_hear_of_it(page, open_page, url, workspace):
    seen = refuse(page, count=2)
    submit_in_vain(page)
    while len(seen) < 2:
        page.wait_for_timeout(50)  # then it waits two seconds
    tab = page.context.new_page()
    tab.goto(f"{url}/rank/desk")  # sends it while the first tab waits
    stored(page, workspace)
    page.wait_for_selector("[inert]", state="detached")
    assert "Not saved" not in page.locator("#status").inner_text()
    assert len(workspace.rankings("desk")) == 1


def test_a_skip_keeps_what_was_reported(page, workspace):
    _, b, *_ = order(page)
    press(page, "b", "p", "Space", "Escape", "n")
    page.keyboard.type("A name and an address")
    press(page, "Escape", "s")
    page.get_by_label("The other reason").fill("It is in Latin")  # and thinks again
    page.get_by_label("I do not want to read this").check()
    page.locator("#skipping button[value=skip]").click()
    verdict = stored(page, workspace)
    assert verdict.skipped == "I do not want to read this" and verdict.tiers == ()
    assert verdict.flags == {str(b): ["harmful"]} and verdict.rationale == "A name and an address"


def test_undo_waits_for_the_verdict_on_its_way(page, workspace):
    press(page, "b", "k", "Enter")
    wait_for_next(page)
    refuse(page)
    submit_in_vain(page)
    here = page.url
    press(page, "u")
    page.wait_for_timeout(300)
    assert page.url == here and page.locator("#undo[inert]").count() == 1


@pytest.mark.parametrize("size", [{}, {"viewport": {"width": 390, "height": 844}}])
def test_every_page_says_what_waits_and_what_was_refused(open_page, workspace, axe, size):
    app = create_app(workspace)
    with running(app) as url:
        port = int(url.rsplit(":")[-1])
        page = open_page(f"{url}/rank/desk", **size)
        page.route("**/api/rankings", lambda route: route.abort())
        submit_in_vain(page)
        page.goto(f"{url}/mine")
        page.get_by_text("A verdict waits in this browser and will be sent: the server cannot be reached.").wait_for()
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
        page.unroute("**/api/rankings")
        refuse(page, status=422)
        page.goto(f"{url}/account")
        page.get_by_text("was not stored: busy").wait_for()
        assert axe(page) == []
        page.reload()  # it stays until it was seen
        page.get_by_role("button", name="I have seen it").focus()
        press(page, "Enter")
        page.wait_for_selector("#outbox", state="hidden")
        assert outbox(page) == []
    assert port and workspace.rankings("desk") == []


def test_one_that_cannot_be_taken_does_not_stop_the_others(page, workspace):
    """The first in the box makes the server stumble for ever."""
    page.evaluate("""localStorage.setItem('tunesmith.outbox/me/stuck', JSON.stringify(
        {id: 'stuck', at: 0, body: {id: 'stuck', group: 'elsewhere'}}))""")
    page.route("**/api/rankings", lambda route: route.fulfill(status=500, json={}) if "stuck" in
               route.request.post_data else route.continue_())
    page.reload()
    page.wait_for_selector("html[data-ready]")
    press(page, "b", "k", "Enter")
    wait_for_next(page)
    assert len(workspace.rankings("desk")) == 1
    assert [e["id"] for e in outbox(page)] == ["stuck"]


def test_single_letters_can_be_switched_off_side_by_side_too(page, workspace):
    shown = order(page)
    page.locator("#letters").uncheck()
    page.locator("#side-by-side").click()
    press(page, "j", "c", "k")
    assert page.locator("#reader .column").count() == 2
    press(page, "Escape")
    assert order(page) == shown
    page.locator("#letters").check()
    page.locator("#side-by-side").click()
    press(page, "c")
    assert page.locator("#reader .column").count() == 3


def test_the_next_page_sends_what_the_last_one_left(open_page, workspace):
    app = create_app(workspace)
    with running(app) as url:
        port = int(url.rsplit(":")[-1])
        page = open_page(f"{url}/rank/desk")
    submit_in_vain(page)
    with running(app, port):
        stored(page, workspace)
        wait_for_next(page)
    assert len(workspace.rankings("desk")) == 1
