"""A kill storm: `python tests/stress/storm.py SECONDS [SEED]`.

`perdure serve` is killed with SIGKILL at random moments and started again, while two clients in
processes of their own start, send, pause, cancel, replace and delete. Afterwards everything that
they were promised is held against the file.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from random import Random

from perdure import Client, Timeout
from perdure.errors import Failed
from perdure.kernel.data.commit import CLOSED
from perdure.ports.store import Inbox
from perdure.simulation import programs
from perdure.simulation.letters import Letters

HERE = Path(__file__).parent

CLIENTS = ("ann", "bob")
PATIENCE_S = 90
"""For a backlog that a node in peace works off, on a machine that may be busy."""
IMPATIENCE_S = 10
LIVES_S = (0.05, 0.5, 2, 6)
"""How long a node lives at most. Now and then it is longer than a trial of those that may have
killed it, or all others would wait until the storm is over."""
NOT_OWNED = {"answers", "tombstones", "dead_letters", "inbox", "deletions"}
"""Tables whose rows outlive their instance, or come before it."""


class Storm:
    """A folder with the file, what the clients were promised, and what activities have begun."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.file = folder / "storm.db"
        self.url = f"sqlite:///{self.file}"
        self.effects = folder / "effects"
        self.random = Random(seed)
        self.kills = 0
        self.breaches: list[str] = []

    # ------------------------------------------------------------ processes

    def serve(self, *, wait: bool) -> subprocess.Popen[str]:
        program = [
            str(Path(sys.executable).with_name("perdure")),
            "serve",
            f"{HERE / 'storm_programs.py'}:app",
        ]
        with (self.folder / "log").open("a") as log:
            node = subprocess.Popen(
                [*program, "--store", self.url],
                env=os.environ | {"STORM_EFFECTS": str(self.effects)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        if wait:
            assert node.stdout is not None
            assert node.stdout.readline().startswith("ready"), (self.folder / "log").read_text()[
                -2000:
            ]
        return node

    def client(self, name: str, seconds: float) -> subprocess.Popen[bytes]:
        seed, ledger = self.random.randrange(2**32), self.folder / f"ledger-{name}"
        return subprocess.Popen(
            [
                sys.executable,
                str(HERE / "storm_client.py"),
                self.url,
                name,
                str(seconds),
                str(seed),
                str(ledger),
            ]
        )

    def rage(self, seconds: float) -> None:
        """Kill and start the node until the clients are through, the last time in peace."""
        node = self.serve(wait=True)
        clients = [self.client(name, seconds) for name in CLIENTS]
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s and all(client.poll() is None for client in clients):
            time.sleep(self.random.choice(LIVES_S) * self.random.random())
            node.send_signal(signal.SIGKILL)
            node.communicate()
            self.kills += 1
            node = self.serve(wait=self.random.random() < 0.8)
        node.send_signal(signal.SIGKILL)
        node.communicate()
        node = self.serve(wait=True)
        try:
            self._wait_for(clients)
            asyncio.run(self.check())
        finally:
            for process in (*clients, node):
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            node.communicate(timeout=PATIENCE_S)
        self.check_file()

    def _wait_for(self, clients: list[subprocess.Popen[bytes]]) -> None:
        """For those that are still at it, unless one has failed: then the storm is over for all."""
        failed = any(client.poll() for client in clients)
        for client in clients:
            if failed and client.poll() is None:
                client.kill()
            try:
                if client.wait(2 * PATIENCE_S) != 0:
                    self.breaches.append("a client ended with an error")
            except subprocess.TimeoutExpired:
                self.breaches.append("a client does not end")
                client.kill()
                client.wait()

    # ------------------------------------------------------------ what must be true

    async def check(self) -> None:
        lines = [
            json.loads(line)
            for name in CLIENTS
            for line in (self.folder / f"ledger-{name}").read_text().splitlines()
        ]
        self.operations = Counter(line[0] for line in lines)
        self.breaches += [line[1] for line in lines if line[0] == "breach"]
        letters: dict[str, Letters] = defaultdict(Letters)
        for what, *details in lines:
            if what in ("sending", "sent"):
                box, sender, number = details
                letters[box].note(sender, number, "acknowledged" if what == "sent" else "unknown")
        async with Client.open(self.url) as client:
            for box, expected in letters.items():
                await self._check_box(client, box, expected)
            ended = {
                line[1]: bool(line[2:] and line[2])
                for line in lines
                if line[0] in ("cancelled", "ended")
            }
            await self._check_ends(client, ended)
            await self._check_rest(client)

    async def _check_box(self, client: Client, box: str, expected: Letters) -> None:
        handle = client.workflow(programs.box, id=box)
        await handle.resume()
        until_s = time.monotonic() + PATIENCE_S
        while (await client._gateway.store.query(Inbox(unit=box))).items:
            if time.monotonic() > until_s:
                found = await handle.describe()
                self.breaches.append(
                    f"stuck: mail of {box} is not taken up: {found.status} ({found.reason})"
                )
                return
            await asyncio.sleep(0.05)
        await handle.send(programs.mail, ["stop", 0])
        try:
            received = await handle.result(timeout=PATIENCE_S)
        except (Failed, Timeout) as error:
            self.breaches.append(f"status: {box} does not complete: {error}")
            return
        self.breaches += [f"{text} ({box})" for text in expected.complaints(received)]

    async def _check_ends(self, client: Client, ended: dict[str, bool]) -> None:
        """Each has ended as cancelled; those that were never due have done nothing."""
        ran = set(self.effects.read_text().splitlines()) if self.effects.exists() else set()
        for name, never_due in ended.items():
            with suppress(Timeout):  # then the status says so
                await client.get(name).wait(timeout=IMPATIENCE_S)
            found = await client.get(name).describe()
            if found.status != "cancelled":
                self.breaches.append(f"status: {name} is {found.status}, its end was acknowledged")
            if never_due and name in ran:
                self.breaches.append(f"cancelled code ran: {name}")

    async def _check_rest(self, client: Client) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            left = [d for d in await client.list(limit=None) if d.status not in CLOSED]
            counts = await client.counts()
            if not left and not counts["inbox"]:
                return
            if time.monotonic() > until_s:
                self.breaches += [f"left open: {d.id} is {d.status} ({d.reason})" for d in left]
                self.breaches.append(f"inbox: {counts['inbox']} messages are left")
                return
            await asyncio.sleep(0.2)

    def check_file(self) -> None:
        with sqlite3.connect(self.file) as database:
            if (found := database.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
                self.breaches.append(f"integrity: {found}")
            tables = [
                name
                for (name,) in database.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'"
                )
            ]
            for table in tables:
                columns = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
                if "unit" in columns and table not in NOT_OWNED:
                    count = database.execute(
                        f"SELECT count(*) FROM {table} WHERE unit NOT IN (SELECT id FROM units)"
                    ).fetchone()[0]
                    if count:
                        self.breaches.append(f"orphans: {count} rows of {table} belong to nobody")


def storm(seconds: float, seed: int, folder: Path) -> Storm:
    """Let it rage; what is wrong stands in `breaches`."""
    one = Storm(folder, seed)
    one.rage(seconds)
    return one


if __name__ == "__main__":
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    with tempfile.TemporaryDirectory(prefix="perdure-storm-") as place:
        raged = storm(float(sys.argv[1]), seed, Path(place))
    sys.stdout.write(f"seed {seed}: {raged.kills} kills, {dict(raged.operations)}\n")
    sys.stdout.writelines(f"    {text}\n" for text in raged.breaches)
    sys.exit(1 if raged.breaches else 0)
