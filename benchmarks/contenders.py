"""Who is measured: the engines, and the environment that each runs in.

A peer gets an environment of its own under `.bench/`, made from its pinned requirements on first use; Perdure and the
limits run in the interpreter that runs this program.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench"
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))
SERVER = "BENCH_POSTGRES_URL"


@dataclass(frozen=True)
class Contender:
    """One engine with its settings. `family` selects the sizes of workloads; `only` has settings for some of them."""

    name: str
    title: str
    module: str
    family: str
    requirements: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    on_postgres: bool = False

    def environment_for(self, workload: str) -> dict[str, str]:
        path = (
            os.pathsep.join((str(ROOT), str(ROOT / "src")))
            if self.requirements is None
            else str(ROOT)
        )
        own = dict(self.environment) | dict(self.only.get(workload, {}))
        if self.on_postgres:
            own[SERVER] = server_url()
        return dict(os.environ) | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"} | own


PERDURE = Contender("perdure", "Perdure", "benchmarks.engines.perdure_engine", "perdure")
PERDURE_UVLOOP = Contender(
    "perdure-uvloop",
    "Perdure on uvloop",
    "benchmarks.engines.perdure_engine",
    "perdure",
    environment={"BENCH_UVLOOP": "1"},
)
DBOS = Contender(
    "dbos",
    "DBOS, WAL FULL",
    "benchmarks.engines.dbos_engine",
    "dbos",
    "requirements-dbos.txt",
    {"DBOS_JOURNAL": "WAL"},
    # Otherwise up to a second of the replay would be its poll for messages.
    {"REPLAY": {"DBOS_NOTIFICATION_POLL_S": "0.01"}},
)
DBOS_DEFAULT = Contender(
    "dbos-default",
    "DBOS, as it comes",
    DBOS.module,
    "dbos",
    DBOS.requirements,
    {"DBOS_JOURNAL": "DELETE"},
    DBOS.only,
)
DUROXIDE = Contender(
    "duroxide",
    "duroxide",
    "benchmarks.engines.duroxide_engine",
    "duroxide",
    "requirements-duroxide.txt",
    # A short poll makes it fast and never idle; where idleness is measured it has its own default.
    only={"IDLE": {"DUROXIDE_POLL_MS": "100"}, "W7": {"DUROXIDE_POLL_MS": "100"}},
)
PERDURE_POSTGRES = Contender(
    "perdure-postgres",
    "Perdure, PostgreSQL",
    PERDURE.module,
    "perdure",
    on_postgres=True,
)
DBOS_POSTGRES = Contender(
    "dbos-postgres",
    "DBOS, PostgreSQL",
    DBOS.module,
    "dbos",
    DBOS.requirements,
    only=DBOS.only,
    on_postgres=True,
)
LIMITS = Contender("limits", "limits", "benchmarks.engines.limits", "limits")

CONTENDERS = {
    one.name: one
    for one in (
        PERDURE,
        PERDURE_UVLOOP,
        PERDURE_POSTGRES,
        DBOS,
        DBOS_DEFAULT,
        DBOS_POSTGRES,
        DUROXIDE,
        LIMITS,
    )
}
DEFAULT = (PERDURE.name, DBOS.name, DUROXIDE.name, LIMITS.name)


@cache
def server_url() -> str:
    """The server of all engines on PostgreSQL. Each commit waits for the disk. It ends with this process."""
    from postgres_server import new_server

    server = new_server(fsync=True)
    server.start("shared_buffers=128MB", "autovacuum=on")
    return server.url


def workspace() -> Path:
    """The folder for environments and databases; git ignores it because it says so itself."""
    BENCH.mkdir(exist_ok=True)
    (BENCH / ".gitignore").write_text("*\n")
    return BENCH


def interpreter(contender: Contender) -> str:
    """The Python that runs the engine; makes its environment if there is none for exactly these requirements."""
    if contender.requirements is None:
        return sys.executable
    pins = Path(__file__).parent / contender.requirements
    key = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = workspace() / f"{pins.stem.removeprefix('requirements-')}-{key}"
    python, ready = place / "bin" / "python", place / ".ready"
    if not ready.exists():
        print(f"making the environment of {contender.name} (once)", file=sys.stderr)
        venv.create(place, with_pip=True, clear=True)
        command = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            str(pins),
        ]
        subprocess.run(command, check=True)
        ready.touch()
    return str(python)
