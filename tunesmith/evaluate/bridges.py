"""How to point other red-teaming tools at `tunesmith serve`, each in an environment of its own.

Nothing here imports them: garak and inspect_ai bring dozens of packages, some in versions that clash with ours. What
this writes is a file of settings and the command to type.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.errors import UserError


@dataclass(frozen=True, slots=True)
class Bridge:
    """Files to write (name -> text), environment variables to set, and the commands to type, in order."""

    files: Mapping[str, str]
    environment: Mapping[str, str]
    commands: tuple[str, ...]

    def script(self) -> str:
        """The commands as a shell script, variables first."""
        exported = [f"export {name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return "\n".join([*exported, *self.commands]) + "\n"


def garak(url: str, model: str, probes: Sequence[str] = ("dan", "encoding", "promptinject"), key: str = "none"
          ) -> Bridge:
    """garak (Apache-2.0) through its generator for OpenAI-compatible servers; `probes` are its own names.

    Raises:
        UserError: an address without http, or no model.
    """
    _check(url, model)
    options = {"openai": {"OpenAICompatible": {"uri": f"{url.rstrip('/')}/", "max_tokens": 128, "stop": None}}}
    words = ["garak-env/bin/python", "-m", "garak", "--target_type", "openai.OpenAICompatible", "--target_name", model,
             "--generator_option_file", "garak-options.json", "--probes", ",".join(probes)]
    return Bridge({"garak-options.json": json.dumps(options, indent=1) + "\n"}, {"OPENAICOMPATIBLE_API_KEY": key},
                  ("python -m venv garak-env", "garak-env/bin/pip install garak", shlex.join(words)))


def inspect(url: str, model: str, tasks: Sequence[str] = ("inspect_evals/xstest", "inspect_evals/strong_reject"),
            key: str = "none") -> Bridge:
    """inspect_ai (MIT) through its provider for OpenAI-compatible servers; `tasks` are files or names of inspect_evals,
    most of which download their data.

    Raises:
        UserError: an address without http, or no model.
    """
    _check(url, model)
    words = ["inspect-env/bin/inspect", "eval", *tasks, "--model", f"openai-api/tunesmith/{model}",
             "--max-connections", "4"]
    return Bridge({}, {"TUNESMITH_BASE_URL": url.rstrip("/"), "TUNESMITH_API_KEY": key},
                  ("python -m venv inspect-env", "inspect-env/bin/pip install inspect-ai inspect-evals openai",
                   shlex.join(words)))


def _check(url: str, model: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: an endpoint is an address such as http://127.0.0.1:8000/v1")
    if not model:
        raise UserError("name the model that the server should answer with")
