"""Webhooks: other servers hear that a fine-tuning job has ended, as OpenAI tells them.

    {"id": "evt_...", "object": "event", "created_at": 1797868800, "type": "fine_tuning.job.succeeded",
     "data": {"id": "ftjob-..."}}

Each request is signed as Standard Webhooks has it (webhook-id, webhook-timestamp, webhook-signature), which
`client.webhooks.unwrap` of OpenAI's clients checks. The secret comes from the environment and is never stored. What is
sent obeys the rules of `outbound`; what does not arrive is tried again, for three days (`store.deliveries`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tunesmith.errors import SettingsError, StorageError
from tunesmith.records import fingerprint
from tunesmith.service import outbound
from tunesmith.service.outbound import EndpointError, Exchange, Policy
from tunesmith.service.refusals import log
from tunesmith.store import deliveries
from tunesmith.store.deliveries import Delivery

if TYPE_CHECKING:
    from tunesmith.store.workspace import Workspace

VARIABLE = "TUNESMITH_WEBHOOK_SECRET"
SHORTEST, LONGEST = 24, 64
"""Bytes of a secret."""
LOOK_SECONDS = 2.0
ANSWER_SECONDS = 15.0


def secret_of(variable: str, environment: Mapping[str, str] | None = None) -> bytes:
    """The secret that signs, from an environment variable that holds `whsec_` and its base64.

    Raises:
        SettingsError: not set, or no such secret.
    """
    text = (os.environ if environment is None else environment).get(variable, "").strip()
    try:
        secret = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.startswith("whsec_") or not SHORTEST <= len(secret) <= LONGEST:
        raise SettingsError(f"--webhook needs a secret in the environment variable {variable}: whsec_ and the base64 "
                            f"of {SHORTEST} to {LONGEST} random bytes. Make one: "
                            f'export {variable}="whsec_$(head -c 32 /dev/urandom | base64)"')
    return secret


def event(delivery: Delivery) -> bytes:
    """The body: OpenAI's event, the same whenever it is sent."""
    kind = f"fine_tuning.job.{delivery.status}"
    body = {"id": f"evt_{fingerprint([delivery.job, kind])}", "object": "event",
            "created_at": int(datetime.fromisoformat(delivery.ended).timestamp()), "type": kind,
            "data": {"id": delivery.job}}
    return json.dumps(body, separators=(",", ":")).encode()


def signed(secret: bytes, id: str, at: int, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks: HMAC-SHA256 over id, time and body."""
    digest = hmac.new(secret, f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
    return {"webhook-id": id, "webhook-timestamp": str(at),
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}"}


class Courier:
    """Delivers while it is open, one thread for each webhook: one that does not answer holds nobody up.

    Raises:
        UserError: an address that may not be asked.
    """

    def __init__(self, workspace: Workspace, urls: Sequence[str], secret: bytes, policy: Policy | None = None,
                 look: float = LOOK_SECONDS):
        self.workspace, self.policy, self.look = workspace, policy or Policy(), look
        self._secret = secret
        self._targets = {url: outbound.parse(url) for url in dict.fromkeys(urls)}
        for target in self._targets.values():
            try:
                self.policy.check(target)
            except EndpointError as error:
                if not error.again:  # a name that cannot be looked up just now may be there when it is needed
                    raise
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        deliveries.subscribe(self.workspace, list(self._targets))
        self._threads = [threading.Thread(target=self._work, args=(url,), name="webhook", daemon=True)
                         for url in self._targets]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """A try that is under way is not waited for; another one follows when a server runs again."""
        self._over.set()

    def _work(self, url: str) -> None:
        while not self._over.is_set():
            try:
                for delivery in deliveries.take(self.workspace, url):
                    self.deliver(delivery)
                    if self._over.is_set():
                        return
            except StorageError as error:  # busy, full, or closed behind us
                log.warning("webhooks wait: %s", error)
            self._over.wait(self.look)

    def deliver(self, delivery: Delivery) -> bool:
        """Try once; whether it has arrived."""
        body, target = event(delivery), self._targets[delivery.url]
        try:
            Exchange(target, self.policy, ANSWER_SECONDS).deliver(
                body, signed(self._secret, delivery.id, int(time.time()), body))
        except EndpointError as error:
            seconds = deliveries.failed(self.workspace, delivery, str(error), error.wait)
            log.warning("webhook %s (%s of %s), try %d: %s; %s", target.authority, delivery.status, delivery.job,
                        delivery.tries, error, f"again in {seconds:.0f} s" if seconds else "given up")
            return False
        deliveries.arrived(self.workspace, delivery)
        return True
