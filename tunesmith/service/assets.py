"""Scripts and styles: kept by the browser for good under an address that changes with their content.

`/static/VERSION/rank.js` and all that it imports are sent once; `/static/rank.js` works too, and is asked about again.
`/static/feedback.js` is for pages of other sites.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(__file__).parent / "static"
VERSION = hashlib.sha256(b"\0".join(f.name.encode() + f.read_bytes() for f in sorted(FOLDER.iterdir())
                                    if f.is_file())).hexdigest()[:16]
ADDRESS = f"/static/{VERSION}"


class Assets(StaticFiles):
    """The files, with or without the version before them."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    async def get_response(self, path: str, scope: Scope) -> Response:
        plain = path.removeprefix(f"{VERSION}/")
        answer = await super().get_response(plain, scope)
        if plain == "feedback.js":
            answer.headers["cross-origin-resource-policy"] = "cross-origin"
        answer.headers["cache-control"] = "no-cache" if plain == path else "public, max-age=31536000, immutable"
        return answer
