"""Requests that this server makes to other servers: only where it may, and never for longer or more than it should.

An address is parsed once, here, and the request is written from the parts, so no second parser can read it in another
way. The host is resolved once per request, every address it has must be allowed, and the connection goes to exactly
the address that was checked: a name that changes its mind afterwards changes nothing. The rules:

- https to public addresses. http too, and private or loopback addresses at all, only for hosts that whoever runs the
  server lists in TUNESMITH_PRIVATE_ENDPOINTS (`localhost:11434,10.0.0.7:8000`). Link-local, multicast, unspecified and
  metadata addresses never, listed or not.
- No user names, queries, fragments, backslashes, percent signs, odd spellings of numbers (octal, hex, short forms).
- No redirects, no proxies, no compressed answers; an answer has a largest size, and everything together a time limit.

Left out: certificates of one's own (the system's are trusted, see SSL_CERT_FILE), HTTP/2, reuse of connections.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tunesmith.errors import UserError

LISTED = "TUNESMITH_PRIVATE_ENDPOINTS"
LONGEST_URL = 500
LARGEST_ANSWER = 4 * 2**20
LONGEST_LINE = 256 * 1024
CONNECT_SECONDS = 10.0
MANY = 8
"""Addresses of one host that are looked at; the first that answers is taken."""

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
_METADATA = {ipaddress.ip_address(a) for a in ("169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16",
                                               "fd00:ec2::254", "fd20:ce::254")}
_TRANSLATED = tuple(ipaddress.ip_network(n) for n in ("64:ff9b::/96", "64:ff9b:1::/48"))
_NETLOC = re.compile(r"([^:\[\]]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]*)*")


class EndpointError(UserError):
    """Another server could not be asked, or did not answer as it should; `again` if it is worth another try."""

    status = 502

    def __init__(self, message: str, again: bool = False, code: int = 0, wait: float = 0.0):
        super().__init__(message)
        self.again, self.code, self.wait = again, code, wait


@dataclass(frozen=True, slots=True)
class Target:
    """An address, taken apart. `path` has no slash at its end."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What stands in Host: the port only if it is not the usual one."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.scheme == "https" else 80) else f"{name}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse(url: str) -> Target:
    """An address that people typed -> its parts.

    Raises:
        UserError: anything but `https://HOST[:PORT][/PATH]` or http.
    """
    shown = repr(url[:80])
    if not url.isascii() or not url.isprintable() or set(url) & set(" \\%?#@<>\"^`{|}") or len(url) > LONGEST_URL:
        raise UserError(f"{shown} is not the plain address of a server; write https://HOST/v1, without user name, "
                        "query, \"%\" or \"\\\" (a key goes into an environment variable)")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UserError(f"{shown} is not an address: {error}") from error
    if parts.scheme not in ("https", "http") or not re.match(r"https?://[^/]", url, re.IGNORECASE):
        raise UserError(f"{shown}: an address begins with https:// (or http:// for this machine and private networks)")
    if port == 0 or not _NETLOC.fullmatch(parts.netloc):
        raise UserError(f"{shown}: after the slashes stands HOST or HOST:PORT, the port from 1 to 65535")
    if not _PATH.fullmatch(parts.path) or {".", ".."} & set(parts.path.split("/")):
        raise UserError(f"{shown}: the path may not hold that; write it as the server's documentation does")
    host = _host(parts.hostname or "", parts.netloc, shown)
    return Target(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), parts.path.rstrip("/"))


def _host(host: str, netloc: str, shown: str) -> str:
    """A host name or a canonical IP address; what only looks like a number is refused."""
    if "[" in netloc:
        with suppress(ValueError):
            return str(ipaddress.IPv6Address(host))  # no zone: "%" is refused above
        raise UserError(f"{shown}: [{host}] is not an IPv6 address")
    labels = host.split(".")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        with suppress(ValueError):
            return str(ipaddress.IPv4Address(host))  # four decimal numbers without leading zeros
        raise UserError(f"{shown}: {host} is an odd way to write an IP address; write four decimal numbers")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise UserError(f"{shown}: {host[:80]!r} is not a host name")
    return host


# ---- which addresses

def listed(environment: Mapping[str, str] | None = None) -> frozenset[str]:
    """The `host:port` pairs that may be private, from TUNESMITH_PRIVATE_ENDPOINTS."""
    text = (os.environ if environment is None else environment).get(LISTED, "")
    return frozenset(part.lower() for part in re.split(r"[,\s]+", text) if part)


@dataclass(frozen=True, slots=True)
class Policy:
    """Which servers may be asked. `private` are `host:port` pairs; None trusts every private one (a person at the
    shell, who could reach them anyway). `resolve` is for tests."""

    private: frozenset[str] | None = field(default_factory=listed)
    resolve: Resolve | None = None

    def check(self, target: Target) -> list[str]:
        """The addresses that may be connected to, in the resolver's order.

        Raises:
            EndpointError: the host has no address, or one that is not allowed.
        """
        addresses = (self.resolve or _resolve)(target.host, target.port)[:MANY]
        listed = self.private is None or f"{_bracketed(target.host)}:{target.port}" in self.private
        for text in addresses:
            address = ipaddress.ip_address(text)
            if _never(address):
                raise EndpointError(f"{target.authority} is at {address}, an address that is never asked "
                                    "(link-local, metadata, multicast or unspecified)")
            if not _public(address) and not listed:
                raise EndpointError(f"{target.authority} is at {address}, inside this machine or network. If that is "
                                    "meant, whoever runs the server starts it with "
                                    f"{LISTED}={_bracketed(target.host)}:{target.port}")
            if _public(address) and target.scheme == "http":
                raise EndpointError(f"{target.authority} is on the internet: write https://, or everybody on the way "
                                    "reads along")
        if not addresses:
            raise EndpointError(f"{target.host} has no address")
        return list(addresses)


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise EndpointError(f"{host} cannot be found: {getattr(error, 'strerror', None) or error}", True) from error
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def _inner(address: IP) -> list[IP]:
    """An address and those that it carries: IPv4 inside IPv6, by mapping, 6to4, Teredo or translation."""
    found: list[IP] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if any(address in network for network in _TRANSLATED) or int(address) >> 32 == 0:
            carried.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        found += [inner for inner in carried if inner is not None]
    return found


def _never(address: IP) -> bool:
    loopback = address.is_loopback  # ::1 would read as carrying 0.0.0.1
    return any(a in _METADATA or a.is_link_local or a.is_multicast or a.is_unspecified
               or (isinstance(a, ipaddress.IPv4Address) and a in ipaddress.ip_network("0.0.0.0/8") and not loopback)
               or a == ipaddress.ip_address("255.255.255.255") for a in _inner(address))


def _public(address: IP) -> bool:
    mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    return all(a.is_global and not a.is_reserved for a in _inner(address)[1 if mapped else 0:])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


# ---- one request

class Exchange:
    """One POST of JSON. `cancel` may be called from another thread and ends whatever is waited for."""

    def __init__(self, target: Target, policy: Policy, seconds: float = 120.0, largest: int = LARGEST_ANSWER):
        self.target, self.policy, self.seconds, self.largest = target, policy, seconds, largest
        self._socket: socket.socket | None = None
        self._over = ""  # why it was ended from outside
        self._lock = threading.Lock()

    def cancel(self, why: str = "stopped") -> None:
        """End it: whoever waits gets an `EndpointError`."""
        with self._lock:
            self._over = self._over or why
            if self._socket is not None:
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def post(self, path: str, body: Mapping[str, Any], key: str = "") -> Any:
        """The JSON that comes back.

        Raises:
            EndpointError: not allowed, not reached, too slow, too large, a redirect, a failure, not JSON.
        """
        raw = b"".join(self._chunks(path, json.dumps(body).encode(), _bearer(key)))
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise EndpointError(f"{self.target.authority} did not answer with JSON") from error

    def events(self, path: str, body: Mapping[str, Any], key: str = "") -> Iterator[str]:
        """The data of server-sent events, one after another.

        Raises:
            EndpointError: as `post`; or a line that does not end.
        """
        rest = b""
        for chunk in self._chunks(path, json.dumps(body).encode(), _bearer(key)):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE:
                raise EndpointError(f"{self.target.authority} sent a line without an end")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip().decode("utf-8", "replace")

    def deliver(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Send JSON to the address itself; any 2xx says that it has arrived, whatever else is answered.

        Raises:
            EndpointError: as `post`.
        """
        with closing(self._chunks("", body, headers)) as answer:
            next(answer, None)

    def _chunks(self, path: str, body: bytes, headers: Mapping[str, str]) -> Generator[bytes]:
        timer = threading.Timer(self.seconds, self.cancel, (f"took longer than {self.seconds:.0f} s",))
        timer.daemon = True
        timer.start()
        try:
            yield from self._read(path, body, headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            again = not self._over and not isinstance(error, ssl.SSLCertVerificationError)
            raise EndpointError(f"{self.target.authority}: {self._over or _said(error)}", again) from error
        finally:
            timer.cancel()

    def _read(self, path: str, body: bytes, more: Mapping[str, str]) -> Iterator[bytes]:
        connection = _Pinned(self.target, self._connect())
        with closing(connection):
            where = f"{self.target.path}{path}" or "/"
            connection.putrequest("POST", where, skip_host=True, skip_accept_encoding=True)
            headers = {"Host": self.target.authority, "Content-Type": "application/json", "Accept-Encoding": "identity",
                       "Content-Length": str(len(body)), "User-Agent": "tunesmith", "Connection": "close"}
            for name, value in {**headers, **more}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            with connection.getresponse() as response:
                self._check(response, more.get("Authorization", "").removeprefix("Bearer "))
                yield from self._body(response)

    def _body(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        seen = 0
        while chunk := response.read1(65536):
            seen += len(chunk)
            if seen > self.largest:
                raise EndpointError(f"{self.target.authority} answered with more than {self.largest} bytes")
            yield chunk
        if self._over:  # a socket that was shut down reads as the end
            raise OSError(self._over)

    def _check(self, response: http.client.HTTPResponse, key: str) -> None:
        """A redirect, a failure or a packed answer is an error."""
        where, code = self.target.authority, response.status
        if 300 <= code < 400:
            raise EndpointError(f"{where} answers with a redirect, which is not followed; use the address it leads to",
                                code=code)
        if not 200 <= code < 300:
            said = readable(response.read1(4096), key)
            wait = response.getheader("retry-after", "")
            raise EndpointError(f"{where} answered {code}{said}", code in (408, 409, 429) or code >= 500, code,
                                float(wait) if re.fullmatch(r"[0-9]{1,4}(\.[0-9]+)?", wait) else 0.0)
        if response.getheader("content-encoding", "identity").lower() != "identity":
            raise EndpointError(f"{where} sent a packed answer, which was not asked for")

    def _connect(self) -> socket.socket:
        """A socket to an address that was checked, and to no other."""
        problem: OSError | None = None
        for address in self.policy.check(self.target):
            try:
                made = socket.create_connection((address, self.target.port),
                                                timeout=min(CONNECT_SECONDS, self.seconds))
            except OSError as error:
                problem = error
                continue
            return self._ready(made)
        raise problem or OSError("no address")

    def _ready(self, opened: socket.socket) -> socket.socket:
        """The socket, encrypted if it shall be, and known to `cancel` before anything is waited for."""
        opened.settimeout(self.seconds)
        if self.target.scheme == "https":
            opened = ssl.create_default_context().wrap_socket(opened, server_hostname=self.target.host,
                                                              do_handshake_on_connect=False)
        try:
            with self._lock:
                self._socket = opened
            if self._over:
                raise OSError(self._over)
            if isinstance(opened, ssl.SSLSocket):
                opened.do_handshake()
        except BaseException:
            opened.close()
            raise
        return opened


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


class _Pinned(http.client.HTTPConnection):
    """A connection on a socket that is open already; it makes no other."""

    def __init__(self, target: Target, opened: socket.socket):
        super().__init__(target.host, target.port)
        self.sock = opened

    def connect(self) -> None:
        raise OSError("the connection was closed")


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, http.client.HTTPException):
        return f"did not answer as HTTP does ({type(error).__name__})"
    return f"cannot be reached: {getattr(error, 'strerror', None) or error}"


def readable(raw: bytes, key: str) -> str:
    """What the other server said about a failure: printable, short, without the key."""
    text = raw.decode("utf-8", "replace")
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        found = found.get("error", found) if isinstance(found, dict) else found
        text = str(found.get("message", found) if isinstance(found, dict) else found)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f": {(text.replace(key, '...') if key else text)[:300]}" if text else ""


def patiently(ask: Callable[[], Any], tries: int = 4, pause: Callable[[float], None] = time.sleep) -> Any:
    """`ask` again, after a growing wait, while the error says that it is worth it."""
    for n in range(tries):
        try:
            return ask()
        except EndpointError as error:
            if not error.again or n == tries - 1:
                raise
            pause(min(error.wait or 2.0**n, 30.0))
    raise AssertionError("unreachable")
