"""Signing in at another place: OpenID Connect, the authorization code flow with PKCE, state and nonce.

    /oidc/start       sends the browser to the provider
    /oidc/callback    takes it back, checks what the provider says, and starts a session

Who comes in: an e-mail address that the provider calls verified and that is an account's name, or was invited as one,
or is of the allowed domain (then with the default role). Left out: sign-out at the provider, groups and
roles of the provider, several providers. Needs the extra `oidc`.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from tunesmith.errors import MissingExtra, UserError
from tunesmith.service import access
from tunesmith.service.access import local
from tunesmith.service.pages import render
from tunesmith.service.refusals import Refusal, log
from tunesmith.service.security import LOOPBACK
from tunesmith.store import team

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

SECRET = "TUNESMITH_OIDC_SECRET"
"""The environment variable with the client's secret; a public client has none."""
ROLES = ("labeler", "viewer", "reviewer")
"""What a whole domain may be."""
MINUTES = 10
MOST_PENDING = 1000
SECONDS = 10.0
LEEWAY = 60
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures that only the provider can make: neither "none" nor one with the client's secret."""


@dataclass(frozen=True, slots=True)
class Provider:
    """Where people sign in, and who of them is let in beside those who were invited."""

    issuer: str
    client_id: str
    secret: str = ""
    domain: str = ""
    role: str = "labeler"


@dataclass(frozen=True, slots=True)
class Pending:
    """Somebody who was sent to the provider."""

    nonce: str
    verifier: str
    back: str
    until: float


def provider(issuer: str, client_id: str, secret: str = "", domain: str = "", role: str = "labeler") -> Provider | None:
    """What the settings say; None without an issuer.

    Raises:
        UserError: they do not fit each other.
        MissingExtra: Authlib is not installed.
    """
    if not issuer:
        if client_id or domain:
            raise UserError("--oidc-client-id and --oidc-domain need --oidc-issuer: the address of the provider")
        return None
    parts = urlsplit(issuer)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise UserError(f'the issuer "{issuer}" must begin with https://')
    if not client_id:
        raise UserError("--oidc-issuer needs --oidc-client-id: the name that the provider gave this studio")
    if role not in ROLES:
        raise UserError(f'a whole domain cannot be "{role}"; choose {", ".join(ROLES)}')
    try:
        import authlib  # noqa: F401
        import httpx  # noqa: F401
    except ImportError as error:
        raise MissingExtra("Authlib", "oidc") from error
    return Provider(issuer.rstrip("/"), client_id, secret, domain.lower().lstrip("@"), role)


def router(workspace: Workspace, chosen: Provider) -> APIRouter:
    """The two doors."""
    routes = APIRouter(default_response_class=HTMLResponse)
    client = Client(chosen)
    pending: dict[str, Pending] = {}
    lock = threading.Lock()

    @routes.get("/oidc/start")
    def start(request: Request, next: str = "/") -> Response:
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        answer = RedirectResponse(client.address(_back(request), state, nonce, verifier), 303)
        with lock:
            now = time.monotonic()
            for old in [s for s, p in pending.items() if p.until < now] or list(pending)[:-MOST_PENDING]:
                del pending[old]
            pending[state] = Pending(nonce, verifier, local(next), now + 60 * MINUTES)
        # Lax: the browser comes back from another site, and must bring it.
        answer.set_cookie(_cookie(request), state, max_age=60 * MINUTES, path="/oidc", httponly=True,
                          secure=request.app.state.https, samesite="lax")
        return answer

    @routes.get("/oidc/callback")
    def callback(request: Request, state: str = "", code: str = "", error: str = "") -> Response:
        with lock:
            found = pending.pop(state, None)
        mine = request.cookies.get(_cookie(request), "")
        if found is None or found.until < time.monotonic() or not hmac.compare_digest(mine, state):
            raise Refusal("This sign-in was not begun in this browser, or took too long. Begin again at /signin.",
                          status=403)
        if error or not code:
            raise Refusal(f"The provider did not sign you in ({error[:80] or 'it sent no code'}). Begin again at "
                          "/signin.", status=403)
        email = client.email(_back(request), code, found)
        secret = admit(workspace, chosen, email)
        if old := access.session_secret(request):
            team.end_session(workspace, old)
        # A page, not a redirect: a redirect that another site began would not bring the session's strict cookie.
        answer = HTMLResponse(render("entered.html", next=found.back))
        access.set_cookie(request, answer, secret)
        answer.delete_cookie(_cookie(request), path="/oidc")
        return answer

    return routes


def admit(workspace: Workspace, chosen: Provider, email: str) -> str:
    """The secret of a new session of whoever has this address.

    Raises:
        Refusal: they were not invited, or their account is switched off.
    """
    welcome = bool(chosen.domain) and email.rpartition("@")[2] == chosen.domain
    try:
        account = team.admit(workspace, email, chosen.role if welcome else "")
        if account is None:
            log.warning("oidc: %r is not invited", email[:200])
            raise Refusal(f"{email} has no account here. Ask whoever runs this studio for an invitation under this "
                          "address.", status=403)
        return team.start_session(workspace, account.name, "oidc")
    except Refusal:
        raise
    except UserError as error:
        raise Refusal(f"You cannot come in as {email}: {error}.", status=403) from error


class Client:
    """What is said between this server and the provider."""

    def __init__(self, chosen: Provider):
        self.chosen = chosen
        self._known: dict[str, Any] = {}

    def address(self, back: str, state: str, nonce: str, verifier: str) -> str:
        """Where the browser is sent."""
        with self._session(back) as session:
            url, _ = session.create_authorization_url(self._about()["authorization_endpoint"], state=state,
                                                      code_verifier=verifier, nonce=nonce)
        return str(url)

    def email(self, back: str, code: str, pending: Pending) -> str:
        """The verified address of whoever signed in.

        Raises:
            Refusal: the provider says something else than it must, or nothing.
        """
        import httpx
        from authlib.common.errors import AuthlibBaseError
        from joserfc.errors import JoseError

        about = self._about()
        try:
            with self._session(back) as session:
                token = session.fetch_token(about["token_endpoint"], code=code, code_verifier=pending.verifier)
            keys = httpx.get(about["jwks_uri"], timeout=SECONDS).raise_for_status().json()
            claims = self._claims(str(token.get("id_token", "")), pending.nonce, keys)
        except (AuthlibBaseError, httpx.HTTPError, JoseError, ValueError) as error:
            raise _strange(f"its answer cannot be trusted ({type(error).__name__}: {error})") from error
        email = str(claims.get("email", "")).strip().lower()
        if "@" not in email or claims.get("email_verified") is not True:
            raise Refusal("The provider did not confirm an e-mail address of yours; confirm it there first.",
                          status=403)
        return email

    def _claims(self, token: str, nonce: str, keys: Any) -> dict[str, Any]:
        """What an ID token says, once its signature, issuer, audience, time and nonce hold (OpenID Connect 3.1.3.7)."""
        from joserfc import jwt
        from joserfc.errors import InvalidClaimError
        from joserfc.jwk import KeySet

        claims = jwt.decode(token, KeySet.import_key_set(keys), algorithms=ALGORITHMS).claims
        jwt.JWTClaimsRegistry(
            leeway=LEEWAY, iss={"essential": True, "value": self._about()["issuer"]}, exp={"essential": True},
            aud={"essential": True, "value": self.chosen.client_id}, sub={"essential": True},
            iat={"essential": True}, nonce={"essential": True, "value": nonce}).validate(claims)
        many = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if (many or "azp" in claims) and claims.get("azp") != self.chosen.client_id:
            raise InvalidClaimError("azp")
        return claims

    def _about(self) -> dict[str, Any]:
        """What the provider says of itself (OpenID Connect Discovery 1.0); read once."""
        import httpx

        if not self._known:
            url = f"{self.chosen.issuer}/.well-known/openid-configuration"
            try:
                found = httpx.get(url, timeout=SECONDS).raise_for_status().json()
            except (httpx.HTTPError, ValueError) as error:
                raise _strange(f"{url} cannot be read ({type(error).__name__})") from error
            needed = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")
            if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in needed):
                raise _strange(f"{url} does not say {', '.join(needed)}")
            if found["issuer"].rstrip("/") != self.chosen.issuer:
                raise _strange(f"{url} is of another issuer, {found['issuer']}")
            self._known = found
        return self._known

    def _session(self, back: str) -> Any:
        from authlib.integrations.httpx_client import OAuth2Client

        return OAuth2Client(self.chosen.client_id, self.chosen.secret or None, scope="openid email",
                            redirect_uri=back, code_challenge_method="S256", timeout=SECONDS,
                            token_endpoint_auth_method="client_secret_basic" if self.chosen.secret else "none")


def _strange(why: str) -> Refusal:
    log.error("oidc: %s", why)
    return Refusal("The place where people sign in does not answer as it must; this server's log says more. You can "
                   "use your password meanwhile.", status=502)


def _back(request: Request) -> str:
    return f"{'https' if request.app.state.https else 'http'}://{request.headers['host']}/oidc/callback"


def _cookie(request: Request) -> str:
    return f"{access.cookie_name(request).removeprefix('__Host-')}-oidc"
