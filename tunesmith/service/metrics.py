"""What a server counts, as Prometheus reads it. Each hub has a registry of its own.

    tunesmith_requests_total{model}           accepted requests
    tunesmith_tokens_total{model,kind}        prompt and completion tokens
    tunesmith_batch_answers, _requests_open   answers in the batch; requests with the engine, those that wait included
    tunesmith_time_to_first_token_seconds     of streamed requests, from their arrival
    tunesmith_time_per_token_seconds          of streamed answers, after the first token
    tunesmith_adapter_load_seconds            adapters read from disk
    ...                                       every line of /metrics says what it is
"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SLOW = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Counters of one server; called from the event loop and the worker (prometheus_client locks)."""

    def __init__(self) -> None:
        self.registry = made = CollectorRegistry()
        name = "tunesmith_{}".format
        self.requests = Counter(name("requests"), "Accepted requests", ["model"], registry=made)
        self.tokens = Counter(name("tokens"), "Tokens read and written", ["model", "kind"], registry=made)
        self.refused = Counter(name("refused"), "Requests turned away because too many were waiting", registry=made)
        self.cancelled = Counter(name("cancelled"), "Requests whose client left before the end", registry=made)
        self.guarded = Counter(name("guarded"), "Answers that a guard kept back", ["model"], registry=made)
        self.interactions = Counter(name("interactions"), "Exchanges logged, or dropped because storing them took too "
                                    "long or failed", ["outcome"], registry=made)
        self.batch = Gauge(name("batch_answers"), "Answers in the batch", registry=made)
        self.open = Gauge(name("requests_open"), "Requests with the engine, waiting or being written", registry=made)
        self.step = Histogram(name("step_seconds"), "One step of the batch", registry=made, buckets=FAST)
        self.first = Histogram(name("time_to_first_token_seconds"), "From arrival to the first text",
                               registry=made, buckets=SLOW)
        self.per_token = Histogram(name("time_per_token_seconds"), "Per token after the first text",
                                   registry=made, buckets=FAST)
        self.seconds = Histogram(name("request_seconds"), "From arrival to the end", registry=made, buckets=SLOW)
        self.loaded = Histogram(name("adapter_load_seconds"), "Adapters loaded from disk", registry=made, buckets=FAST)
        self.hits = Counter(name("adapter_hits"), "Requests whose adapter was in memory", registry=made)
        self.evicted = Counter(name("adapters_evicted"), "Adapters that made room for others", registry=made)

    def started(self, model: str, tokens: int) -> None:
        """A request with a prompt of so many tokens."""
        self.requests.labels(model).inc()
        self.tokens.labels(model, "prompt").inc(tokens)

    def stepped(self, seconds: float, writing: int, requests: int) -> None:
        """One step of the batch."""
        self.step.observe(seconds)
        self.batch.set(writing)
        self.open.set(requests)

    def ended(self, model: str, tokens: int, seconds: float) -> None:
        """An answer of so many tokens; `seconds` from its first text to its end, 0 if it was not streamed."""
        self.tokens.labels(model, "completion").inc(tokens)
        if seconds and tokens > 1:
            self.per_token.observe(seconds / (tokens - 1))


def router(metrics: Metrics) -> APIRouter:
    """GET /metrics."""
    routes = APIRouter()

    @routes.get("/metrics")
    def read() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return routes
