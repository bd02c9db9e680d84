"""PostgreSQL for the crowd: durable, as a team would run it."""

import pytest
from postgres import Server


@pytest.fixture
def postgres_url():
    server = Server(durable=True)
    yield server.database()
    server.remove()
