"""The drop-in script in a real Chromium, on a page of another site that names a completion."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from service_fakes import running

from tunesmith.records import Answer, Interaction, Message
from tunesmith.service import create_app
from tunesmith.service.interactions import Log
from tunesmith.store import interactions

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PAGE = """<!doctype html><meta charset="utf-8"><title>App</title>
<p data-completion="chatcmpl-1"><span id="text">The rate is 7.5 percent.</span>
<button data-feedback="thumb" data-value="1">Good</button>
<button data-feedback="report" data-value="rude">Report</button>
</p><p id="else">Nothing of ours</p>
<script src="{url}/static/feedback.js" data-to="{url}/v1/feedback"></script>"""


@pytest.fixture
def site():
    """Another origin, whose page the test fills in."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(self.server.page.encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.page = ""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def open_site(chromium, workspace, engine, site):
    origin = f"http://127.0.0.1:{site.server_port}"
    interactions.add(workspace, [Interaction("chatcmpl-1", (Message("user", "q"),), Answer("a"), source="serve")])
    app = create_app(workspace, lambda: engine, base="tiny", keeper=Log(workspace), feedback_origins=[origin])
    with running(app) as url:
        site.page = PAGE.format(url=url)
        context = chromium.new_context()
        problems = []

        def open_site(script=""):
            page = context.new_page()
            page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning")
                    and "503" not in m.text else None)
            page.on("pageerror", lambda e: problems.append(str(e)))
            if script:
                page.add_init_script(script)
            page.goto(origin)
            return page

        yield open_site
        context.close()
        assert problems == []


def events(page, workspace, count):
    for _ in range(100):
        found = interactions.interaction(workspace, "chatcmpl-1").events
        if len(found) >= count:
            break
        page.wait_for_timeout(50)
    return [(e["type"], e["value"]) for e in found]


def test_clicks_copies_reading_and_calls(open_site, workspace):
    page = open_site()
    page.get_by_text("Good").click()
    page.get_by_text("Report").click()
    page.get_by_text("Nothing of ours").click()
    for selector in ("#else", "#text"):
        page.evaluate("s => getSelection().selectAllChildren(document.querySelector(s))", selector)
        page.keyboard.press("Control+c")
    page.evaluate("tunesmith('chatcmpl-1', 'edit', 'The rate is 7.25 percent.')")
    assert sorted(kind for kind, _ in events(page, workspace, 4)) == ["copy", "edit", "report", "thumb"]
    page.wait_for_timeout(1200)
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true})")
    page.evaluate("dispatchEvent(new Event('visibilitychange'))")
    found = dict(events(page, workspace, 5))
    assert found["thumb"] == 1 and found["report"] == "rude" and found["edit"] == "The rate is 7.25 percent."
    assert 0.4 < found["copy"] < 1 and 500 <= found["dwell_ms"] <= 10_000 and len(found) == 5


def test_who_objects_sends_nothing(open_site, workspace):
    page = open_site("Object.defineProperty(navigator, 'globalPrivacyControl', {value: true})")
    page.get_by_text("Good").click()
    page.wait_for_timeout(1200)
    assert events(page, workspace, 0) == []


def test_what_does_not_arrive_is_sent_again(open_site, workspace):
    page, tries = open_site(), []

    def refuse(route):
        tries.append(route.request.post_data_json["events"][0]["id"])
        return route.fulfill(status=503) if len(tries) < 2 else route.continue_()

    page.route("**/v1/feedback", refuse)
    page.get_by_text("Good").click()
    assert events(page, workspace, 1) == [("thumb", 1)] and len(set(tries)) == 1 and len(tries) >= 2
