"""Signing in at another place: the whole flow against a small provider, and everything that it must not take."""

import base64
import hashlib
import socket
import threading
import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Form, Header
from fastapi.responses import RedirectResponse
from starlette.testclient import TestClient

from tunesmith.errors import UserError
from tunesmith.service import create_app, oidc
from tunesmith.store import team
from tunesmith.store.audit import entries

jwk = pytest.importorskip("joserfc.jwk", reason="joserfc is not installed")
pytest.importorskip("authlib", reason="Authlib is not installed")
SECRET = "secret of the client"


class Place:
    """A provider that signs everybody in as `email`. What it says of them is in `claims`; `spoil` changes the token."""

    def __init__(self):
        self.key = jwk.RSAKey.generate_key(2048, {"kid": "one"})
        self.signing = self.key
        self.asked, self.claims, self.spoil, self.algorithm = {}, {}, lambda claims: claims, "RS256"
        self.app = FastAPI()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.issuer = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.app.get("/.well-known/openid-configuration")(self.about)
        self.app.get("/authorize")(self.authorize)
        self.app.post("/token")(self.token)
        self.app.get("/keys")(lambda: {"keys": [self.key.as_dict(private=False)]})

    def about(self):
        return {"issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token", "jwks_uri": f"{self.issuer}/keys"}

    def authorize(self, redirect_uri: str, state: str, nonce: str, code_challenge: str, code_challenge_method: str,
                  client_id: str, response_type: str, scope: str):
        assert (client_id, response_type, code_challenge_method) == ("studio", "code", "S256")
        assert set(scope.split()) == {"openid", "email"}
        code = f"code-{len(self.asked)}"
        self.asked[code] = nonce, code_challenge, redirect_uri
        return RedirectResponse(f"{redirect_uri}?code={code}&state={state}", 302)

    def token(self, code: str = Form(), code_verifier: str = Form(), redirect_uri: str = Form(),
              authorization: str = Header()):
        from joserfc import jwt

        assert base64.b64decode(authorization.removeprefix("Basic ")).decode() == f"studio:{SECRET}"
        nonce, challenge, back = self.asked.pop(code)  # once
        digest = hashlib.sha256(code_verifier.encode()).digest()
        assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == challenge and redirect_uri == back
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": "studio", "sub": "7", "iat": now, "exp": now + 300, "nonce": nonce,
                  "email": "Lea@Example.org", "email_verified": True, **self.claims}
        key = self.signing if self.algorithm == "RS256" else jwk.OctKey.import_key(SECRET)
        token = jwt.encode({"alg": self.algorithm, "kid": "one"}, self.spoil(claims), key, algorithms=[self.algorithm])
        return {"access_token": "a", "token_type": "Bearer", "id_token": token}


@pytest.fixture(scope="module")
def running_place():
    place = Place()
    server = uvicorn.Server(uvicorn.Config(place.app, log_level="critical"))
    thread = threading.Thread(target=server.run, args=([place.listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield place
    server.should_exit = True
    thread.join()


@pytest.fixture
def place(running_place):
    running_place.claims, running_place.spoil, running_place.algorithm = {}, lambda claims: claims, "RS256"
    running_place.signing = running_place.key
    return running_place


@pytest.fixture
def studio(workspace, place):
    """`studio(**options)`: a browser that has not signed in, at a studio with this provider."""
    def make(**options):
        app = create_app(workspace, oidc=oidc.provider(place.issuer, "studio", SECRET, **options))
        return TestClient(app, base_url="http://127.0.0.1:8400", follow_redirects=False)

    return make


def go(client, back="/rank/desk"):
    """Through the provider; what the callback answers."""
    there = client.get("/oidc/start", params={"next": back}).headers["location"]
    return client.get(httpx.get(there).headers["location"])


def test_who_was_invited_under_their_address_comes_in(studio, workspace):
    team.invite(workspace, "reviewer", "me", "lea@example.org")
    client = studio()
    assert "/oidc/start?next=/" in client.get("/signin").text
    page = go(client)
    assert page.status_code == 200 and 'content="0;url=/rank/desk"' in page.text
    assert client.get("/rank/desk").status_code == 200
    found = team.account(workspace, "lea@example.org")
    assert (found.role, found.password) == ("reviewer", False) and team.invitations(workspace) == []
    said = {e.action: e.detail for e in entries(workspace)}
    assert said["sign-in"] == {"how": "oidc"} and said["join"]["how"] == "oidc" and said["join"]["by"] == "me"
    assert go(client).status_code == 200  # and again, to the same account
    assert [a.name for a in team.accounts(workspace)] == ["lea@example.org", "me"]


def test_a_domain_comes_in_with_the_default_role_and_nobody_else(studio, workspace, place):
    client = studio(domain="example.org", role="viewer")
    assert go(client).status_code == 200 and team.account(workspace, "lea@example.org").role == "viewer"
    for address in ("eve@evil.example", "eve@sub.example.org", "eve@example.org.evil.example", "example.org", ""):
        place.claims = {"email": address}
        assert go(studio(domain="example.org")).status_code == 403, address
    assert len(team.accounts(workspace)) == 2


def test_strangers_and_unconfirmed_addresses_stay_out(studio, workspace, place):
    refused = go(studio())
    assert refused.status_code == 403 and "no account here" in refused.text and "set-cookie" not in refused.headers
    team.invite(workspace, "labeler", "me", "lea@example.org")
    for said in (False, "true", None):
        place.claims = {"email_verified": said}
        assert "did not confirm" in go(studio()).text
    place.claims = {}
    assert go(studio()).status_code == 200
    team.set_active(workspace, "lea@example.org", False, "me")
    assert "switched off" in go(studio()).text


@pytest.mark.parametrize("spoil", [
    {"iss": "https://evil.example"}, {"aud": "another"}, {"aud": ["studio", "another"]}, {"exp": 1}, {"nonce": "other"},
    {"nonce": None}, {"azp": "another"}, {"iat": int(time.time()) + 9000}, "HS256", "key"])
def test_tokens_that_are_not_for_us_are_not_believed(studio, workspace, place, spoil):
    team.invite(workspace, "admin", "me", "lea@example.org")
    if spoil == "HS256":  # signed with what the client knows, too
        place.algorithm = spoil
    elif spoil == "key":  # by somebody else, under the same name
        place.signing = jwk.RSAKey.generate_key(2048, {"kid": "one"})
    else:
        place.spoil = lambda claims: {k: v for k, v in {**claims, **spoil}.items() if v is not None}
    answer = go(studio())
    assert answer.status_code == 502 and "log says more" in answer.text and "set-cookie" not in answer.headers
    assert len(team.accounts(workspace)) == 1


def test_a_callback_is_only_for_the_browser_that_began(studio, workspace, place):
    team.invite(workspace, "labeler", "me", "lea@example.org")
    mine, other = studio(), studio()
    there = mine.get("/oidc/start").headers["location"]
    back = httpx.get(there).headers["location"]
    assert other.get(back).status_code == 403  # another server, another browser
    mine.cookies.clear()
    assert mine.get(back).status_code == 403 and mine.get(back).status_code == 403
    client = studio()
    assert client.get("/oidc/callback?state=x&code=y").status_code == 403
    asked = parse_qs(urlsplit(client.get("/oidc/start").headers["location"]).query)
    assert "access_denied" in client.get("/oidc/callback", params={"state": asked["state"][0],
                                                                    "error": "access_denied"}).text


def test_the_cookie_of_the_way_there_is_short_and_lax(studio):
    cookie = studio().get("/oidc/start").headers["set-cookie"]
    assert {"HttpOnly", "Path=/oidc", "SameSite=lax", "Max-Age=600"} <= set(cookie.split("; "))


def test_nobody_is_sent_elsewhere_afterwards(studio, workspace):
    team.invite(workspace, "labeler", "me", "lea@example.org")
    assert 'content="0;url=/"' in go(studio(), "//evil.example").text


def test_a_provider_that_is_gone_is_said(workspace):
    app = create_app(workspace, oidc=oidc.provider("http://127.0.0.1:9", "studio"))
    with TestClient(app, base_url="http://127.0.0.1:8400", follow_redirects=False) as client:
        answer = client.get("/oidc/start")
    assert answer.status_code == 502 and "use your password" in answer.text


@pytest.mark.parametrize(("given", "said"), [
    ({"issuer": "http://id.example.org", "client_id": "x"}, "https://"),
    ({"issuer": "https://id.example.org", "client_id": ""}, "--oidc-client-id"),
    ({"issuer": "", "client_id": "x"}, "--oidc-issuer"),
    ({"issuer": "https://id.example.org", "client_id": "x", "role": "admin"}, "cannot be")])
def test_settings_that_do_not_fit_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        oidc.provider(**given)


def test_a_name_like_an_address_needs_an_invitation_under_it(workspace):
    with pytest.raises(UserError, match="without @"):
        team.accept(workspace, team.invite(workspace, "labeler", "me"), "lea@example.org", "plum quartz lantern")
