"""Doors, accounts and the team over HTTP: what each role and each stranger can do."""

import re
import time

import pytest
from service_fakes import account, ask_as, signed
from starlette.testclient import TestClient

from tunesmith.service import access, create_app
from tunesmith.store import audit, keys, passwords, team
from tunesmith.store.workspace import Workspace

BASE = "http://127.0.0.1:8400"
OURS = {"origin": BASE}
GOOD = "copper lantern umbrella"
OPEN = {"/signin", "/enter", "/invite", "/static", "/metrics", "/v1/{path:path}"}
"""What a stranger may ask for; all other routes send them to the sign-in page or say 401."""


@pytest.fixture(autouse=True)
def quick_hashing(monkeypatch):
    from argon2 import PasswordHasher

    hasher = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
    monkeypatch.setattr(passwords, "_hasher", lambda: hasher)
    passwords._nobody.cache_clear()


@pytest.fixture
def lea(workspace):
    """A labeler with a password."""
    return team.new_account(workspace, "lea", "labeler", "me", GOOD)


def sign_in(client, name="lea", password=GOOD, next="/", **headers):
    return client.post("/signin", data={"name": name, "password": password, "next": next}, headers={**OURS, **headers})


def secret_in(page, what):
    return re.search(r'id="secret" class="secret" value="([^"]*)"', page)[1].replace("&amp;", "&").partition(what)[2]


def routes(app, method=None):
    """(verb, path) of every route, those of included routers too."""
    found = list(app.routes)
    while found:
        route = found.pop()
        found += getattr(getattr(route, "original_router", None), "routes", [])
        if not hasattr(route, "path"):
            continue
        for verb in sorted(getattr(route, "methods", None) or {"GET"}):
            if verb not in ("HEAD", "OPTIONS") and (method is None or verb == method):
                yield verb, route.path


# ---- strangers

def test_every_route_but_the_doors_asks_who_you_are(app, anonymous):
    seen = 0
    for verb, path in routes(app):
        if path in OPEN or path.startswith("/v1/"):
            continue
        seen += 1
        plain = re.sub(r"\{[^}]*\}", "desk", path)
        kind = "application/json" if path.startswith("/api") else "application/x-www-form-urlencoded"
        answer = anonymous.request(verb, plain, headers={**OURS, **({} if verb == "GET" else {"content-type": kind})})
        where = answer.headers.get("location", "")
        if path.startswith("/api"):
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key", path
        elif verb == "GET":
            assert answer.status_code == 303 and where.startswith("/signin"), path
        else:
            assert answer.status_code == 401, path
    assert seen > 8


def test_the_sign_in_page_leads_back(anonymous, lea):
    there = anonymous.get("/rank/desk?x=1").headers["location"]
    page = anonymous.get(there).text
    back = re.search(r'name="next" value="([^"]*)"', page)[1]
    assert back == "/rank/desk?x=1"
    answer = sign_in(anonymous, next=back)
    assert (answer.status_code, answer.headers["location"]) == (303, "/rank/desk?x=1")
    assert anonymous.get("/rank/desk").status_code == 200
    assert anonymous.get("/signin").headers["location"] == "/"  # already in


@pytest.mark.parametrize("next", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)",
                                  "/\t/evil.example", "evil", "/a\r\nset-cookie: x=1", "\u2028/x", "/" + "a" * 3000])
def test_nobody_is_sent_elsewhere(anonymous, lea, next):
    assert sign_in(anonymous, next=next).headers["location"] == "/"
    page = anonymous.get("/signin", params={"next": next}).headers["location"]
    assert page == "/"


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(anonymous, lea):
    cookie = sign_in(anonymous).headers["set-cookie"]
    name, _, rest = cookie.partition("=")
    assert name == "tunesmith-8400"  # cookies know no ports
    assert {"HttpOnly", "Path=/", "SameSite=strict", "Max-Age=2592000"} <= set(rest.split("; "))
    assert "Secure" not in rest and "Domain" not in rest


def test_behind_https_the_cookie_is_a_host_cookie(workspace, lea):
    app = create_app(workspace, hosts=["studio.example.org"], https=True)
    with TestClient(app, base_url="https://studio.example.org", follow_redirects=False) as client:
        assert client.post("/signin", data={"name": "lea", "password": GOOD}, headers={
            "origin": "http://studio.example.org"}).status_code == 403
        answer = client.post("/signin", data={"name": "lea", "password": GOOD},
                             headers={"origin": "https://studio.example.org"})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-tunesmith=") and "Secure" in cookie
        assert answer.headers["strict-transport-security"].startswith("max-age=")
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"host": "evil.example"}).status_code == 421


def test_a_wrong_name_and_a_wrong_password_look_alike(anonymous, lea):
    wrong = [sign_in(anonymous, "lea", "wrong password"), sign_in(anonymous, "nobody", "wrong password"),
             sign_in(anonymous, "me", "")]  # "me" exists and has no password
    assert {a.status_code for a in wrong} == {401}
    assert len({re.sub(r'value="[^"]*"', "", a.text) for a in wrong}) == 1
    assert all("set-cookie" not in a.headers and "wrong password" not in a.text for a in wrong)


def test_guessing_gets_slower_for_a_name_and_an_address(workspace, lea):
    app = create_app(workspace, hosts=["studio.example.org"], https=True)

    def attempt(client, name, password, address="203.0.113.7"):
        return client.post("/signin", data={"name": name, "password": password}, headers={
            "origin": "https://studio.example.org", "x-forwarded-for": f"198.51.100.1, {address}"})

    with TestClient(app, base_url="https://studio.example.org", follow_redirects=False,
                    client=("127.0.0.1", 5000)) as client:
        for name in ("lea", "ghost"):  # whether there is an account or not
            for _ in range(5):
                assert attempt(client, name, "wrong password").status_code == 401
            answer = attempt(client, name, GOOD)
            assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1 and "Too many" in answer.text
        assert attempt(client, "lea", GOOD, "203.0.113.8").status_code == 303  # she herself, at another place


def test_a_forwarded_address_counts_only_from_a_proxy_on_this_machine(workspace):
    from starlette.requests import Request

    def seen(peer, https, header):
        app = create_app(workspace, hosts=["x"] if https else [], https=https)
        return access.address(Request({"type": "http", "app": app, "client": (peer, 1), "headers": [
            (b"x-forwarded-for", header.encode())]}))

    assert seen("127.0.0.1", True, "6.6.6.6, 203.0.113.7") == "203.0.113.7"
    assert seen("127.0.0.1", False, "6.6.6.6") == "127.0.0.1"
    assert seen("203.0.113.9", True, "6.6.6.6") == "203.0.113.9"
    assert seen("127.0.0.1", True, "") == "127.0.0.1"


def test_the_throttle_doubles_forgets_and_is_not_outrun():
    at = [0.0]
    throttle = access.Throttle(free=2, longest=8, memory=100, clock=lambda: at[0])
    waits = []
    for _ in range(7):
        waits.append(throttle.wait("ada", "here"))
        at[0] += waits[-1]
        throttle.failed("ada", "here")
    assert waits == [0, 0, 1, 2, 4, 8, 8]
    assert throttle.wait("ada", "there") == 0
    throttle.forget("ada", "here")
    assert throttle.wait("ada", "here") == 0
    for _ in range(3):
        throttle.failed("bob", "here")
    at[0] += 101
    throttle.failed("bob", "here")
    assert throttle.wait("bob", "here") == 0


def test_many_names_from_one_address_have_to_wait(anonymous):
    for i in range(50):
        assert sign_in(anonymous, f"name{i}", "x").status_code == 401
    assert sign_in(anonymous, "name51", "x").status_code == 429


# ---- links

def test_the_printed_link_works_at_once_and_once(anonymous, workspace):
    link = signed(workspace, f"{BASE}/rank/desk")
    answer = anonymous.get(link, headers={"sec-fetch-site": "none"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/rank/desk")
    assert anonymous.get("/rank/desk").status_code == 200
    assert anonymous.get(link).headers["location"] == "/rank/desk"  # a reload of who is in
    anonymous.cookies.clear()
    gone = anonymous.get(link, headers={"sec-fetch-site": "none"})
    assert gone.status_code == 404 and "tunesmith team link" in gone.text


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-origin"},
                                     {"sec-fetch-site": "none", "sec-purpose": "prefetch"}])
def test_a_preview_does_not_use_the_link_up(anonymous, workspace, headers):
    link = signed(workspace, f"{BASE}/rank/desk")
    page = anonymous.get(link, headers=headers)
    assert page.status_code == 200 and "set-cookie" not in page.headers and "Enter as me" in page.text
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page.text))
    assert anonymous.post("/enter", data=fields, headers=OURS).headers["location"] == "/rank/desk"
    assert anonymous.get("/rank/desk").status_code == 200


def test_a_link_does_not_switch_the_person_unasked(client_as, workspace):
    lea = client_as("labeler", "lea")
    page = lea.get(signed(workspace, f"{BASE}/"), headers={"sec-fetch-site": "none"})
    assert "Enter as me" in page.text and "lea" in lea.get("/account").text


def test_entering_ends_the_session_that_the_browser_had(client, workspace):
    before = client.cookies["tunesmith-8400"]
    once = team.link(workspace, "me", "test")
    client.post("/enter", data={"once": once}).raise_for_status()
    assert team.session(workspace, before) is None and client.get("/account").status_code == 200


def test_an_invitation_from_the_page_to_the_first_ranking(client, anonymous, workspace):
    page = client.post("/team/invite", data={"role": "labeler", "name": ""}).text
    key = secret_in(page, "/invite?key=")
    asked = anonymous.get("/invite", params={"key": key})
    assert "me invites you as labeler" in asked.text
    assert anonymous.get("/invite", params={"key": key}).status_code == 200  # looking does not use it up
    bad = anonymous.post("/invite", data={"key": key, "name": "ann", "password": "short", "again": "short"},
                         headers=OURS)
    assert bad.status_code == 400 and "too short" in bad.text and 'value="ann"' in bad.text and "short" not in \
        re.search(r'id="password"[^>]*', bad.text)[0]
    differs = {"key": key, "name": "ann", "password": GOOD, "again": "else"}
    assert "differ" in anonymous.post("/invite", data=differs, headers=OURS).text
    done = anonymous.post("/invite", data={**differs, "again": GOOD}, headers=OURS)
    assert done.headers["location"] == "/" and anonymous.get("/rank/desk").status_code == 200
    assert anonymous.get("/invite", params={"key": key}).status_code == 404
    assert [(a.name, a.role) for a in team.accounts(workspace)] == [("ann", "labeler"), ("me", "admin")]


def test_an_invitation_under_a_name_keeps_it(client, anonymous):
    key = secret_in(client.post("/team/invite", data={"role": "viewer", "name": "Jo"}).text, "/invite?key=")
    assert "Your name here is" in anonymous.get("/invite", params={"key": key}).text
    anonymous.post("/invite", data={"key": key, "name": "Mallory", "password": GOOD, "again": GOOD}, headers=OURS)
    assert "Jo" in anonymous.get("/account").text


# ---- one's own account

def test_password_keys_and_signing_out(client_as, workspace, lea):
    me = client_as("labeler", "lea")
    new = {"password": "violet tram ostrich", "again": "violet tram ostrich"}
    assert "another one" in me.post("/account/password", data={**new, "current": "wrong"}).text
    assert "differ" in me.post("/account/password", data={**new, "again": "x", "current": GOOD}).text
    assert "changed" in me.post("/account/password", data={**new, "current": GOOD}).text
    assert team.sign_in(workspace, "lea", "violet tram ostrich") and me.get("/account").status_code == 200
    current = {"current": "violet tram ostrich"}
    page = me.post("/account/keys", data={"key_name": "tool", "scope_rank": "yes", "days": "30", **current}).text
    secret = secret_in(page, "sk-")
    assert len(secret) == 43 and secret not in me.get("/account").text
    assert 'name="scope_manage"' not in page  # nobody is offered more than their role has
    assert "cannot have" in me.post("/account/keys", data={"key_name": "t", "scope_manage": "yes", **current}).text
    assert "1 to 3650" in me.post("/account/keys", data={"key_name": "t", "scope_rank": "yes", "days": "-1",
                                                         **current}).text
    key, = keys.keys(workspace, "lea")
    assert "revoked" in me.post("/account/keys/revoke", data={"id": key.id}).text
    other = client_as("labeler", "lea")
    assert me.post("/signout", data={"everywhere": ""}).url.path == "/signin"
    assert me.get("/account").url.path == "/signin"
    assert other.get("/account").url.path == "/account"
    another = client_as("labeler", "lea")
    other.post("/signout", data={"everywhere": "yes"})
    assert another.get("/account").url.path == "/signin"


def test_guessing_the_current_password_gets_slower(client_as, lea):
    me = client_as("labeler", "lea")
    for _ in range(5):
        assert me.post("/account/password", data={"current": "x", "password": GOOD, "again": GOOD}).status_code == 400
    assert me.post("/account/password", data={"current": GOOD, "password": GOOD + "!", "again": GOOD + "!"
                                              }).status_code == 429


def test_somebody_elses_key_cannot_be_revoked_from_ones_own_page(client_as, workspace):
    key, secret = keys.create_key(workspace, "me", "mine", ["chat"], "me")
    assert client_as("labeler").post("/account/keys/revoke", data={"id": key.id}).status_code == 404
    assert client_as("manager").post("/team/revoke", data={"id": key.id}).status_code == 403
    assert keys.key(workspace, secret)


# ---- the team's page

@pytest.mark.parametrize("role", ["viewer", "labeler", "reviewer"])
def test_the_team_is_for_managers(client_as, workspace, role):
    one = client_as(role)
    assert one.get("/team").status_code == 403 and "manager or admin" in one.get("/team").text
    before = (team.accounts(workspace), team.invitations(workspace))
    for path in ("invite", "withdraw", "role", "active", "reset", "revoke"):
        answer = one.post(f"/team/{path}", data={"name": role, "role": "admin", "active": "no", "id": "x",
                                                 "invitation": "x"})
        assert answer.status_code == 403, path
    assert (team.accounts(workspace), team.invitations(workspace)) == before


def test_a_manager_rules_below_not_beside_or_above(client_as, workspace):
    boss = client_as("manager")
    for name, role in (("ada", "admin"), ("max", "manager"), ("bot", "api"), ("lea", "labeler")):
        account(workspace, name, role)
    for name in ("ada", "max", "bot", "manager"):
        for path, data in (("role", {"role": "viewer"}), ("active", {"active": "no"}), ("reset", {})):
            assert boss.post(f"/team/{path}", data={"name": name, **data}).status_code == 403, (name, path)
    for role in ("admin", "manager", "api", "", "root"):
        assert boss.post("/team/role", data={"name": "lea", "role": role}).status_code == 403
        assert boss.post("/team/invite", data={"name": "", "role": role}).status_code == 403
    digest = team.invitation(workspace, team.invite(workspace, "admin", "me")).digest
    assert boss.post("/team/withdraw", data={"invitation": digest}).status_code == 403
    assert boss.post("/team/role", data={"name": "lea", "role": "reviewer"}).status_code == 200
    assert boss.post("/team/active", data={"name": "lea", "active": "no"}).status_code == 200
    assert (team.account(workspace, "lea").role, team.account(workspace, "lea").active) == ("reviewer", False)
    assert "Keys of programs" not in boss.get("/team").text


def test_an_admin_changes_roles_and_the_person_is_signed_out(client, client_as, workspace):
    lea = client_as("labeler", "lea")
    assert "lea is now viewer" in client.post("/team/role", data={"name": "lea", "role": "viewer"}).text
    assert lea.get("/account").url.path == "/signin"
    assert "last admin" in client.post("/team/role", data={"name": "me", "role": "viewer"}).text
    assert "last admin" in client.post("/team/active", data={"name": "me", "active": "no"}).text
    assert client.post("/team/role", data={"name": "nobody", "role": "viewer"}).status_code == 404
    account(workspace, "ada", "admin")
    assert client.post("/team/role", data={"name": "me", "role": "viewer"}).url.path == "/signin"
    assert [e.actor for e in audit.entries(workspace) if e.action == "role"] == ["me", "me"]


def test_a_reset_link_brings_the_person_to_a_new_password(client, anonymous, workspace, lea):
    page = client.post("/team/reset", data={"name": "lea"}).text
    once = re.search(r"once=([\w-]+)&amp;next=/account", page)[1]
    anonymous.post("/enter", data={"once": once, "next": "/account"}, headers=OURS)
    page = anonymous.get("/account").text
    assert "Choose a password" in page and "Current password" not in page
    new = {"password": "violet tram ostrich", "again": "violet tram ostrich"}
    assert anonymous.post("/account/password", data=new, headers=OURS).status_code == 200
    assert team.sign_in(workspace, "lea", "violet tram ostrich")


def test_names_like_markup_stay_text(client, workspace):
    evil = '"><img src=x onerror=alert(1)>'
    account(workspace, evil, "labeler")
    keys.create_key(workspace, "me", evil, ["read"], "me")
    for page in (client.get("/team").text, client.get("/account").text,
                 client.post("/team/role", data={"name": evil, "role": "viewer"}).text):
        assert "<img src=x" not in page and "&lt;img src=x" in page


# ---- forms come from our own pages

@pytest.mark.parametrize("headers", [{"origin": "http://evil.example"}, {"origin": "null"},
                                     {"origin": "http://127.0.0.1:3000"}, {"sec-fetch-site": "cross-site"},
                                     {"sec-fetch-site": "same-site"}, {}])
def test_no_other_page_sends_our_forms(app, workspace, headers):
    with TestClient(app, base_url=BASE) as client:
        ask_as(client, workspace, "me")
        del client.headers["origin"]
        for verb, path in routes(app, "POST"):
            if not path.startswith(("/api/", "/v1/")):
                answer = client.request(verb, path, data={"role": "admin", "name": "", "next": "/"}, headers=headers)
                assert answer.status_code == 403, path
    assert team.invitations(workspace) == []


def test_forms_are_small_and_unambiguous(client):
    twice = client.post("/signin", content="name=a&name=b", headers={
        "content-type": "application/x-www-form-urlencoded"})
    assert twice.status_code == 400 and "twice" in twice.text
    assert client.post("/signin", data={"name": "x" * 1_100_000}).status_code == 413
    many = client.post("/signin", data={f"f{i}": "1" for i in range(300)})
    assert many.status_code == 400
    assert client.post("/signin", content=b"name=%ff", headers={
        "content-type": "application/x-www-form-urlencoded"}).status_code == 400
    assert client.post("/signin", json={}).status_code == 415


# ---- keys of programs

def test_what_a_key_can_do_follows_its_scopes_and_its_account(workspace):
    people = {}
    for role in ("admin", "manager", "reviewer", "labeler", "viewer", "api"):
        account(workspace, role, role)
        people[role] = [access.Person(role, role, "key", frozenset(keys.ALLOWED[role]) & {s}) for s in keys.SCOPES]
    can = {role: {(s, right) for s, who in zip(keys.SCOPES, many) for right in access.HOLDERS if who.may(right)}
           for role, many in people.items()}
    rank = {("rank", "labeler"), ("rank", "reviewer")}
    read = {("read", "viewer")}
    assert can == {"admin": rank | read | {("manage", "manager"), ("manage", "admin")},
                   "manager": rank | read | {("manage", "manager")}, "reviewer": rank | read,
                   "labeler": {("rank", "labeler")}, "viewer": read, "api": rank | read | {("manage", "manager")}}
    assert access.Person("x", "api", "key", frozenset({"data"})).may("manager", "data")
    assert not access.Person("x", "labeler", "key", frozenset({"data"})).may("manager", "data")


def test_a_program_ranks_with_a_key_and_reads_no_pages(anonymous, workspace):
    account(workspace, "lea", "labeler")
    _, secret = keys.create_key(workspace, "lea", "tool", ["rank"], "lea")
    key = {"authorization": f"Bearer {secret}"}
    body = {"id": "rank-00001", "group": workspace.groups("desk")[0].id, "tiers": [[0], [1], [2], [3]],
            "shown": [0, 1, 2, 3]}
    assert anonymous.post("/api/rankings", json=body, headers={"authorization": "Bearer sk-no"}).status_code == 401
    assert anonymous.post("/api/rankings", json=body).status_code == 401
    answer = anonymous.post("/api/rankings", json=body, headers=key)
    assert answer.status_code != 401 and answer.status_code != 403
    assert anonymous.get("/rank/desk", headers=key).headers["location"].startswith("/signin")
    _, other = keys.create_key(workspace, "me", "reader", ["read"], "me")
    refused = anonymous.post("/api/rankings", json=body, headers={"authorization": f"bearer {other}"})
    assert refused.status_code == 403 and 'scope "rank"' in refused.json()["error"]["message"]


def test_the_api_is_open_here_until_there_is_a_key(anonymous, workspace):
    assert anonymous.get("/v1/models").status_code == 200
    assert anonymous.get("/v1/models", headers={"authorization": "Bearer unused"}).status_code == 200
    key, secret = keys.create_key(workspace, "me", "chat", ["chat"], "me")
    closed = anonymous.get("/v1/models")
    assert closed.status_code == 401 and closed.json()["error"]["code"] == "invalid_api_key"
    assert anonymous.get("/v1/models", headers={"authorization": f"Bearer {secret}"}).status_code == 200
    _, other = keys.create_key(workspace, "me", "other", ["rank"], "me")
    assert anonymous.get("/v1/models", headers={"authorization": f"Bearer {other}"}).status_code == 403
    keys.revoke_key(workspace, key.id, "me")
    assert anonymous.get("/v1/models", headers={"authorization": f"Bearer {secret}"}).status_code == 401
    assert anonymous.get("/v1/models").status_code == 401  # revoking the last key opens nothing


def test_the_api_needs_a_key_when_other_machines_can_ask(workspace, engine):
    app = create_app(workspace, lambda: engine, base="tiny", hosts=["studio.example.org"])
    with TestClient(app, base_url="http://studio.example.org:8000") as client:
        assert client.get("/v1/models").status_code == 401


# ---- time

def test_looking_at_a_page_costs_little_for_knowing_who_asks(client):
    client.get("/account")
    start = time.perf_counter()
    for _ in range(20):
        client.get("/account")
    assert (time.perf_counter() - start) / 20 < 0.2


def test_a_new_workspace_has_one_account_that_no_password_opens(tmp_path):
    with Workspace.open(tmp_path / "new") as workspace:
        create_app(workspace, labeler="ana")
        one, = team.accounts(workspace)
        assert (one.name, one.role, one.password) == ("ana", "admin", False)
        assert all(team.sign_in(workspace, n, p) is None for n in ("ana", "admin", "me", "root")
                   for p in ("", "admin", "password", "ana"))
