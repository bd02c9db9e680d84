"""Every route against every role, foreign pages, hostile paths: what exists is found by looking at the app's routes."""

import json
import re

import pytest
from fastapi.routing import APIRoute

from tunesmith.errors import UserError
from tunesmith.records import Ranking
from tunesmith.store import work

pytestmark = pytest.mark.parametrize("workspace", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)],
                                     indirect=True)

OPEN = {"/signin", "/enter", "/invite", "/signout", "/metrics"}
"""Pages for people who are not signed in yet; figures for programs, as open as /v1."""
HOSTILE = ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e", "..%252f..%252fetc", "..\\..\\x",
           "%5c..%5c", "/etc/passwd", "C:\\x", "a%00b", "%00", "~root", "....//", "<script>alert(1)</script>",
           "' OR 1=1 --", "{{7*7}}", "x" * 300, "%ff%fe", "\u202e\u200b", "-1", "NaN", "CON",
           "${jndi:x}", ".git", "tunesmith.db"]


def routes(app):
    """(method, path) of everything under the pages and /api, placeholders filled with `x`."""
    found, waiting = [], list(app.routes)
    while waiting:
        route = waiting.pop()
        if isinstance(route, APIRoute):
            found += [(method, route.path) for method in route.methods]
        else:
            inner = getattr(route, "original_router", None) or getattr(route, "router", None)
            waiting += getattr(inner, "routes", [])
    return sorted({r for r in found if not r[1].startswith("/v1")})


def filled(path, value="x"):
    return re.sub(r"\{[^}]*\}", lambda _: value, path)


def ask(client, method, path, **headers):
    body = {}
    if method not in ("GET", "HEAD", "DELETE"):
        body = {"json": {}} if path.startswith("/api/") else {"data": {"x": "y"}}
        if path.startswith("/api/uploads"):
            body, headers = {"content": b"x"}, {"content-type": "application/octet-stream", **headers}
    return client.request(method, path, headers=headers, follow_redirects=False, **body)


def test_the_routes_are_found(app):
    found = routes(app)
    assert len(found) > 30 and ("POST", "/api/uploads") in found and ("GET", "/sources") in found


def test_nobody_gets_in_without_signing_in(app, anonymous):
    for method, path in routes(app):
        if path in OPEN:
            continue
        reply = ask(anonymous, method, filled(path), origin="http://127.0.0.1:8400")
        sent = reply.status_code == 303 and reply.headers["location"].startswith("/signin")
        assert sent or reply.status_code in (400, 401, 403), (method, path, reply.status_code)


STAFF = {"/sources": "manager", "/sources/endpoints": "admin", "/sources/endpoints/try": "admin",
         "/sources/endpoints/remove": "admin", "/sources/queue/{name}": "manager", "/api/uploads": "manager",
         "/team": "manager", "/runs": "viewer", "/adapters": "viewer", "/reports/{name}": "viewer",
         "/desk/{name}/publish": "manager", "/live": "labeler", "/api/live": "labeler"}
HOLDERS = {"labeler": {"labeler", "reviewer", "manager", "admin"}, "viewer": {"viewer", "reviewer", "manager", "admin"},
           "manager": {"manager", "admin"}, "admin": {"admin"}}


@pytest.mark.parametrize("role", ["viewer", "labeler", "reviewer", "manager"])
def test_roles(app, client_as, role):
    client = client_as(role)
    found = [(method, path) for method, path in routes(app) if path in STAFF]
    assert {path for _, path in found} == set(STAFF)
    for method, path in found:
        code = ask(client, method, filled(path)).status_code
        assert (code != 403) == (role in HOLDERS[STAFF[path]]), (method, path, code)


def test_pages_of_other_sites_change_nothing(app, client):
    for method, path in routes(app):
        if method in ("GET", "HEAD"):
            continue
        for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
                        {"sec-fetch-site": "same-site"}):
            assert ask(client, method, filled(path), **headers).status_code == 403, (method, path, headers)
        for kind in ("text/plain", "multipart/form-data; boundary=x"):
            reply = client.request(method, filled(path), content=b"{}", headers={"content-type": kind})
            assert method == "DELETE" or reply.status_code == 415, (method, path, kind)


def test_what_is_anothers_stays_theirs(client_as, workspace):
    """Drafts, claims and verdicts of one labeler, asked for by another."""
    ann, bob = client_as("labeler", "ann"), client_as("labeler", "bob")
    turns = [{"role": "user", "content": "Rate?"}, {"role": "assistant", "content": "Secret 7.5"}]
    ann.post("/api/desk/loans/drafts", json={"id": "draft-0001", "messages": turns})
    assert bob.get("/desk/loans/draft-0001").status_code == 404
    decision = {"id": "review-0001", "verdict": "accepted", "seen": 0}
    assert bob.post("/api/desk/loans/drafts/draft-0001/reviews", json=decision).status_code in (403, 404)
    assert "Secret" not in bob.get("/desk/loans").text
    claim = work.claim(workspace, "desk", "ann")
    with pytest.raises(UserError):
        work.heartbeat(workspace, claim.token, "bob")
    with pytest.raises(UserError):
        work.submit(workspace, Ranking("v-1", claim.group.id, "bob", ((0,), (1,), (2,), (3,)), claim.shown),
                    claim.token)
    assert workspace.rankings("desk") == []


def test_hostile_paths_and_queries(app, client, workspace):
    for method, path in routes(app):
        for value in HOSTILE if "{" in path and method == "GET" else ():
            reply = ask(client, method, filled(path, value))
            assert reply.status_code < 500, (path, value)
            html = reply.headers.get("content-type", "").startswith("text/html")
            assert not (html and "<script>alert(1)" in reply.text), path
            assert "root:x:0" not in reply.text and "SQLite" not in reply.text, path
    for value in HOSTILE:
        reply = client.get(f"/static/{value}")
        assert reply.status_code < 500 and "root:x:0" not in reply.text and reply.status_code != 200
    assert {p.name for p in workspace.root.parent.iterdir()} == {"ws"}


NAUGHTY = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "</textarea><svg onload=alert(1)>",
           "javascript:alert(1)", "{{7*7}}${7*7}", "=cmd|' /C calc'!A0", "\u202eevil\u202c", "a\u200bb\u2060c\ufeff",
           "Z" + "\u0300" * 2000, "\U000e0041\U000e0042", "👩‍👩‍👧‍👦🏳️‍🌈", "ﷺ" * 50, "Ω≈ç√∫", "ن" * 99, "\x7f\x1b[31m",
           "%00%0d%0aX: y", "'; DROP TABLE rankings; --", "NULL", "__proto__",
           "1e309", "\u2028\u2029", "e\u0301 vs \u00e9", "\ufffe\uffff"]


def test_naughty_strings_come_back_as_they_were_and_never_as_markup(client, workspace):
    rows = [json.dumps({"prompt": f"{text} ?", "answers": [f"{text} a", f"{text} b"], "models": [text[:200]] * 2})
            for text in NAUGHTY]
    made = client.post("/api/uploads", params={"kind": "answers", "name": "naughty", "file": "n.jsonl"},
                       content="\n".join(rows), headers={"content-type": "application/octet-stream"})
    assert made.status_code == 201, made.text
    stored = {g.prompt.messages[0].content: [a.text for a in g.answers] for g in workspace.groups("naughty")}
    assert stored == {f"{text} ?": [f"{text} a", f"{text} b"] for text in NAUGHTY}
    for path in ("/", "/sources", "/sources/queue/naughty", "/rank/naughty", "/live", "/mine"):
        page = client.get(path)
        assert page.status_code == 200, path
        assert not re.search(r"<script>alert|<img src=x|<svg onload|href=\"javascript:", page.text), path
