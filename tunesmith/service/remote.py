"""Answers from any OpenAI-compatible server: `contracts.Engine` over HTTP, without torch.

One request per answer: many servers ignore `n`. Log-probabilities and token ids do not come back, so answers written
here can be ranked and learned from, but not be the rollouts of PPO. Every request obeys the rules of `outbound`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from tunesmith.contracts import Sampling
from tunesmith.records import Answer, Conversation, turns
from tunesmith.service import outbound
from tunesmith.service.outbound import EndpointError, Exchange, Policy
from tunesmith.store.endpoints import Endpoint, key_of

AT_ONCE = 4
"""Requests to one server at a time."""
LONGEST_ANSWER = 400_000
"""Characters; a longer answer is no answer that people rank."""
_PATH = "/chat/completions"
_TEXT = "/completions"


class RemoteEngine:
    """An endpoint as an engine. `seconds` is the time limit of one answer.

    Raises:
        UserError: a bad address, model or key variable, or the key is missing.
    """

    def __init__(self, endpoint: Endpoint, policy: Policy | None = None, seconds: float = 120.0,
                 pause: Callable[[float], None] = time.sleep):
        self.endpoint = endpoint
        self.target = outbound.parse(endpoint.url)
        self.policy, self.seconds = policy or Policy(), seconds
        self._key = key_of(endpoint)
        self._pause = pause
        self._length = "max_tokens"  # newer OpenAI models want "max_completion_tokens"; found out when one refuses

    @property
    def name(self) -> str:
        """What stands beside an answer as its model."""
        return f"{self.target.authority}/{self.endpoint.model}"

    def sample(self, prompts: Sequence[Conversation | str], sampling: Sampling, *, n: int = 1, model: str = "",
               progress: Callable[[int], None] | None = None) -> list[list[Answer]]:
        """n answers for each prompt, the k-th from seed + k; an error worth it is tried again, a few times.

        `model` is ignored: an endpoint is one model. Plain text goes to the server's /completions, which some have not.

        Raises:
            EndpointError: the server refused, failed, or is not allowed.
        """
        out = []
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="endpoint") as pool:
            work = [[pool.submit(self._patient, prompt, sampling, k) for k in range(n)] for prompt in prompts]
            try:
                for row in work:
                    out.append([future.result() for future in row])
                    if progress:
                        progress(1)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return out

    def stream(self, messages: Conversation, sampling: Sampling, *, exchange: Exchange | None = None,
               ) -> Generator[str, None, Answer]:
        """Pieces of text; the return value is the whole `Answer`. `exchange.cancel()` ends it from outside.

        Raises:
            EndpointError: as `sample`, without another try.
        """
        exchange = exchange or self.exchange()
        pieces: list[str] = []
        finish, length = "", 0
        for data in exchange.events(_PATH, {**self._body(messages, sampling), "stream": True}, self._key):
            if data == "[DONE]":
                break
            text, reason = self._piece(data)
            finish = reason or finish
            length += len(text)
            if length > LONGEST_ANSWER:
                raise EndpointError(f"{self.target.authority} does not stop writing")
            if text:
                pieces.append(text)
                yield text
        return self._answer("".join(pieces), finish or "length", sampling)

    def exchange(self) -> Exchange:
        """One request that can be cancelled."""
        return Exchange(self.target, self.policy, self.seconds)

    def _patient(self, messages: Conversation | str, sampling: Sampling, k: int) -> Answer:
        how = replace(sampling, seed=sampling.seed + k)
        answer: Answer = outbound.patiently(lambda: self._once(messages, how), pause=self._pause)
        return answer

    def _once(self, messages: Conversation | str, sampling: Sampling) -> Answer:
        plain = isinstance(messages, str)
        try:
            found = self.exchange().post(_TEXT if plain else _PATH, self._body(messages, sampling), self._key)
        except EndpointError as error:
            if error.code != 400 or "max_completion_tokens" not in str(error) or self._length != "max_tokens":
                raise
            self._length = "max_completion_tokens"
            return self._once(messages, sampling)
        choice = self._choice(found)
        message = choice if plain else choice.get("message")
        text = message.get("text" if plain else "content") if isinstance(message, Mapping) else None
        if not isinstance(text, str) or len(text) > LONGEST_ANSWER:
            raise EndpointError(f"{self.target.authority} answered without a text, or with one beyond all measure")
        return self._answer(text, str(choice.get("finish_reason")), sampling)

    def _body(self, messages: Conversation | str, sampling: Sampling) -> dict[str, Any]:
        asked = ({"prompt": messages, "max_tokens": sampling.max_tokens} if isinstance(messages, str) else
                 {"messages": turns(messages), self._length: sampling.max_tokens})
        body = {"model": self.endpoint.model, **asked, "temperature": sampling.temperature, "top_p": sampling.top_p,
                "seed": sampling.seed % 2**31}
        more = {"stop": list(sampling.stop), "presence_penalty": sampling.presence_penalty,
                "frequency_penalty": sampling.frequency_penalty}
        return {**body, **{key: value for key, value in more.items() if value}}

    def _piece(self, data: str) -> tuple[str, str]:
        """(text, finish reason) of one event."""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise EndpointError(f"{self.target.authority} sent an event that is not JSON") from error
        if isinstance(found, dict) and found.get("choices") == []:  # the usage comes in an event of its own
            return "", ""
        choice = self._choice(found)
        delta = choice.get("delta")
        text = delta.get("content") if isinstance(delta, Mapping) else None
        reason = choice.get("finish_reason")
        return text if isinstance(text, str) else "", reason if isinstance(reason, str) else ""

    def _choice(self, found: Any) -> Mapping[str, Any]:
        if isinstance(found, Mapping):
            choices = found.get("choices")
            if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
                return choices[0]
            if "error" in found:
                said = outbound.readable(json.dumps(found).encode(), self._key)
                raise EndpointError(f"{self.target.authority} failed{said}")
        raise EndpointError(f"{self.target.authority} did not answer as an OpenAI-compatible server does")

    def _answer(self, text: str, finish: str, sampling: Sampling) -> Answer:
        how = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens,
               "seed": sampling.seed}
        return Answer(text.encode("utf-8", "replace").decode(), self.name, finished=finish != "length", sampling=how)
