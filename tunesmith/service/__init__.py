"""HTTP: the ranking studio and the OpenAI-style API. Imports no torch; the engine arrives as a factory.

    app.py        the application, and how it binds to a port
    security.py   what every request passes first: loopback, Host, Origin, size, headers
    refusals.py   the one place that turns an error into an HTTP answer
    studio.py     the pages, and POST /api/rankings
    openai.py     /v1
    hub.py        one engine, one generation at a time, adapters on demand

Left out until sign-in exists: accounts, API keys, rate limits. The service speaks to this machine only.
"""

from tunesmith.service.app import create_app, open_server, run_server

__all__ = ["create_app", "open_server", "run_server"]
