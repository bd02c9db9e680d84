"""Every body that the API sends, held against the types of OpenAI's own client (nothing required may lack, nothing
unknown may be there) and against the component schemas of OpenAI's own OpenAPI document (openai_openapi.json, MIT).
`paused` and `rlhf` are ours alone.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from openai.types import FileDeleted, FileObject, Model, ModelDeleted, Upload
from openai.types.chat import ChatCompletion
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.uploads import UploadPart
from pydantic import BaseModel

KNOWN = [
    ("GET", r"/v1/files", list[FileObject]), ("POST", r"/v1/files", FileObject),
    ("GET", r"/v1/files/[^/]+", FileObject), ("DELETE", r"/v1/files/[^/]+", FileDeleted),
    ("POST", r"/v1/uploads/[^/]+/parts", UploadPart), ("POST", r"/v1/uploads(/[^/]+/(complete|cancel))?", Upload),
    ("GET", r"/v1/fine_tuning/jobs", list[FineTuningJob]), ("POST", r"/v1/fine_tuning/jobs", FineTuningJob),
    ("GET", r"/v1/fine_tuning/jobs/[^/]+", FineTuningJob),
    ("POST", r"/v1/fine_tuning/jobs/[^/]+/(cancel|pause|resume)", FineTuningJob),
    ("GET", r"/v1/fine_tuning/jobs/[^/]+/events", list[FineTuningJobEvent]),
    ("GET", r"/v1/fine_tuning/jobs/[^/]+/checkpoints", list[FineTuningJobCheckpoint]),
    ("GET", r"/v1/models", list[Model]), ("DELETE", r"/v1/models/.+", ModelDeleted), ("GET", r"/v1/models/.+", Model),
    ("POST", r"/v1/chat/completions", ChatCompletion),
]
OFFICIAL = {
    "list[FileObject]": "ListFilesResponse", "FileObject": "OpenAIFile", "FileDeleted": "DeleteFileResponse",
    "UploadPart": "UploadPart", "Upload": "Upload", "list[FineTuningJob]": "ListPaginatedFineTuningJobsResponse",
    "FineTuningJob": "FineTuningJob", "list[FineTuningJobEvent]": "ListFineTuningJobEventsResponse",
    "list[FineTuningJobCheckpoint]": "ListFineTuningJobCheckpointsResponse", "list[Model]": "ListModelsResponse",
    "Model": "Model", "ModelDeleted": "DeleteModelResponse", "ChatCompletion": "CreateChatCompletionResponse",
}
"""What OpenAI's document calls the same."""
PAGED = ("/v1/fine_tuning", "/v1/files")


def check(method: str, path: str, status: int, body: Any) -> None:
    """Raise if a JSON body is not what OpenAI's client expects of this route."""
    if status >= 400:
        assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}, body
        assert body["error"]["message"] and body["error"]["type"], body
        validator("ErrorResponse").validate(body)
        return
    kind = next(kind for verb, pattern, kind in KNOWN if verb == method and re.fullmatch(pattern, path))
    name = f"list[{kind.__args__[0].__name__}]" if hasattr(kind, "__args__") else kind.__name__
    rows = [theirs(one) for one in body["data"]] if "data" in body else None
    validator(OFFICIAL[name]).validate(theirs(body) if rows is None else {**body, "data": rows})
    if hasattr(kind, "__args__"):
        assert body["object"] == "list" and (not path.startswith(PAGED) or isinstance(body["has_more"], bool)), body
        assert set(body) <= {"object", "data", "has_more", "first_id", "last_id"}, body
        for one in body["data"]:
            strictly(kind.__args__[0], one)
    else:
        strictly(kind, body)


def strictly(kind: type[BaseModel], body: dict[str, Any]) -> None:
    """Validate a body, and refuse fields that the type does not have."""
    made = kind.model_validate(theirs(body), strict=True)
    assert not (more := list(unknown(made))), (kind.__name__, more)


@functools.cache
def validator(name: str) -> Draft202012Validator:
    document = json.loads(Path(__file__).with_name("openai_openapi.json").read_text(encoding="utf-8"))
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]})


def theirs(body: dict[str, Any]) -> dict[str, Any]:
    """The body without what is ours alone."""
    known = dict(body)
    if known.get("status") == "paused":  # OpenAI's documents have it, its client's type does not
        known["status"] = "running"
    if known.get("object") == "fine_tuning.job" and known["method"]["type"] == "rlhf":
        known["method"] = {"type": "supervised"}
    if known.get("object") == "file" and known.get("purpose") == "evals":  # may be sent, but is no purpose of the type
        known["purpose"] = "user_data"
    return known


def unknown(value: Any, path: str = "") -> Any:
    """The fields that a model's type does not have."""
    if isinstance(value, BaseModel):
        yield from (f"{path}.{name}" for name in value.model_extra or {})
        for name in type(value).model_fields:
            yield from unknown(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for n, one in enumerate(value):
            yield from unknown(one, f"{path}[{n}]")
