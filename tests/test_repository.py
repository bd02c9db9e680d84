"""What must never enter the repository: big files, unsafe loading, somebody's machine, unfriendly licences."""

import ast
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
BASE = ROOT / "tunesmith/quickstart/base"
MODULES = sorted((ROOT / "tunesmith").rglob("*.py"))

UNSAFE_IMPORTS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"torch.load", "os.system", "os.popen", "eval", "exec", "yaml.load"}
UNSAFE_TRUE = {"trust_remote_code", "shell", "allow_pickle", "weights_only"}

# Put together from pieces, so that this file does not hold what it looks for.
ELSEWHERE = [r"(?<![\w./-])/" + name for name in ("work" "/", "opt/" "wheels", "root" "/", "home" r"/\w")]
ELSEWHERE += ["files.python" "hosted", "pypi" r"\.org", "registry.npm" "js", "deb.deb" "ian", "--(extra-)?index" "-url"]

PERMISSIVE = {"0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC",
              "LLVM-exception", "MIT", "MIT-0", "PSF-2.0", "Unlicense", "Zlib"}
NAMES = {  # how packages without an SPDX expression say it
    "Apache": "Apache-2.0", "Apache 2.0": "Apache-2.0", "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0", "Apache Software License": "Apache-2.0", "BSD License": "BSD",
    "ISC License": "ISC", "ISC License (ISCL)": "ISC", "MIT License": "MIT", "The MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "Python Software Foundation License": "PSF-2.0",
}
WEAK_COPYLEFT = {"certifi": "MPL-2.0", "hypothesis": "MPL-2.0", "pathspec": "MPL-2.0", "tqdm": "MPL-2.0",
                 "psycopg": "LGPL-3.0-only", "psycopg-binary": "LGPL-3.0-only"}  # used unchanged; psycopg is optional
UNSTATED = {"axe-playwright-python": "MIT"}  # says so in its licence file only; axe-core inside it is MPL-2.0
VENDOR = ("nvidia-", "cuda-", "triton")  # come with torch's CUDA build, for those who choose it


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def test_no_big_file_but_the_bundled_base():
    big = {p.relative_to(ROOT).as_posix(): p.stat().st_size for p in tracked()
           if p.stat().st_size > 2 * 2**20 and BASE not in p.parents}
    assert not big
    assert sum(p.stat().st_size for p in tracked() if BASE in p.parents) <= 16 * 2**20


def test_tracked_files_name_no_machine_and_no_registry():
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture, weights
        found += [f"{path.relative_to(ROOT)}: {m[0]}" for pattern in ELSEWHERE for m in re.finditer(pattern, text)]
    assert not found


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_is_unpickled_and_no_shell_runs(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not UNSAFE_IMPORTS & {alias.name.split(".")[0] for alias in node.names}, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in UNSAFE_IMPORTS, node.lineno
        elif isinstance(node, ast.Call):
            assert dotted(node.func) not in UNSAFE_CALLS, node.lineno
            for keyword in node.keywords:
                on = not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
                assert keyword.arg not in UNSAFE_TRUE or not on, f"line {node.lineno}: {keyword.arg}"


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def closure(requirements: list[str]) -> dict[str, metadata.Distribution]:
    """Everything that these requirements install here, by name."""
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(r) for r in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        wanted = {(name, extra) for extra in ("", *requirement.extras)} - seen
        if not wanted or name.startswith(VENDOR):
            continue
        seen |= wanted
        found[name] = metadata.distribution(name)
        for line in found[name].requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for _, extra in wanted):
                todo.append(needed)
    return found


def licences(distribution: metadata.Distribution) -> set[str]:
    """SPDX names of everything that a distribution says it is under."""
    about = distribution.metadata
    if expression := about["License-Expression"]:
        return set(re.split(r"\s+(?:AND|OR|WITH)\s+", expression.strip("() ")))
    classifiers = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or []
                   if c.startswith("License :: OSI Approved ::")]
    stated = classifiers or re.split(r"\s+AND\s+", about["License"] or "none stated")
    return {NAMES.get(text.strip(), text.strip()) for text in stated}


@pytest.mark.parametrize("extra", ["", "dev"])
def test_every_dependency_is_permissively_licensed(extra):
    requirements = [*project()["dependencies"], *(project()["optional-dependencies"][extra] if extra else [])]
    bad = {}
    for name, distribution in closure(requirements).items():
        stated = {UNSTATED[name]} if name in UNSTATED else licences(distribution)
        if left := stated - PERMISSIVE - {WEAK_COPYLEFT.get(name)}:
            bad[name] = left
    assert not bad


def test_the_lock_pins_every_dependency_exactly():
    locked = {}
    for file in ("requirements.lock", "requirements-dev.lock"):
        for line in (ROOT / file).read_text().splitlines():
            if line and not line.startswith(("#", "-r ")):
                name, equals, version = line.partition("==")
                assert equals and version and not set(version) & set("<>*;@ "), f"{file}: {line}"
                locked[canonicalize_name(name)] = version
    needed = closure([*project()["dependencies"], *project()["optional-dependencies"]["dev"]])
    assert not set(needed) - set(locked)
    for requirement in map(Requirement, project()["dependencies"]):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement
