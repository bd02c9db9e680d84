"""HTTP: the ranking studio and the OpenAI-style API. Imports no torch; the engine arrives as a factory.

    app.py        the application, and how it binds to a port
    security.py   what every request passes first: Host, Origin, size, headers; assets.py: scripts and styles
    access.py     who asks, and what they may do: sessions, keys, roles
    accounts.py   sign-in, invitations, one's own account, the team
    refusals.py   the one place that turns an error into an HTTP answer
    rank.py       the pages where people rank, and POST /api/rankings; desk.py, sources.py: demonstrations, sources
    live.py       answers while one waits; remote.py: other servers that write; outbound.py: whom we may call
    manage.py     the manager's pages; queue.py: what is asked first; figures.py computes beside them
    rounds.py     rounds of loops: compared, adopted, refused, taken back
    dashboards.py runs, models, reports; charts.py, tails.py: their pictures, and files that grow
    pages.py      templates; words.py: words they share; markdown.py, diff.py: text of models and people
    openai.py     /v1: models and chat; completions.py: text; wire.py: what both share; metrics.py
    hub.py        all requests in one batch on one thread, adapters on demand
    guard.py      answers that are kept back; gateway.py: vLLM or llama.cpp write instead
    interactions.py what users agree to have logged, and /v1/feedback: what they did next
    files.py      /v1/files, /v1/uploads; finetuning.py: /v1/fine_tuning/jobs; graders.py; quotas.py: what a key may use
    worker.py     starts a child process for each job; trainer.py: what the child does; recipes.py: the steps it makes
    webhooks.py   tells others when a job has ended

It speaks to this machine only, unless it is told by which names others may call it (`--allow-host`).
"""

from tunesmith.service.app import create_app, open_server, run_server

__all__ = ["create_app", "open_server", "run_server"]
