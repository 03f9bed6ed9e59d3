"""The names that workflow code must not use, with the reason and the remedy.

The lint and the start of a node share this table. The lint follows imports and compares names as
the source spells them. `perdure.guard.scan` compares the objects to which the same names lead.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding.

    A hint is shown and does not count. Its code is replayed correctly, but may surprise.
    """

    code: str
    title: str
    remedy: str
    hint: bool = False


_REPEATED = "replay would repeat it: do it in an activity"

CLOCK = Rule("PD101", "reads a clock", "replay would see another time: use workflow.now()")
RANDOM = Rule(
    "PD102", "draws a random value", "replay would draw another value: use workflow.random()"
)
UUID = Rule("PD103", "makes a random id", "replay would make another id: use workflow.uuid4()")
IDENTITY = Rule(
    "PD104",
    "uses hash() or id()",
    "it differs between processes: use a digest of hashlib, or a key",
)
ENVIRONMENT = Rule(
    "PD105",
    "reads the environment",
    "replay may see another setting: make it an argument, or let an activity read it",
)
SET_ORDER = Rule(
    "PD106",
    "depends on the order of a set",
    "its order differs between processes: iterate over sorted(...)",
)
FILE = Rule("PD201", "uses files", _REPEATED)
NETWORK = Rule("PD202", "uses the network", _REPEATED)
PROCESS = Rule("PD203", "starts a process", _REPEATED)
THREAD = Rule(
    "PD204",
    "starts a thread",
    "threads and processes have no order that replay could repeat: "
    "make it an activity (`def` ones run on threads)",
)
SLEEP = Rule(
    "PD205",
    "blocks",
    "it blocks the node: use `await asyncio.sleep(...)`, which is a durable timer here",
)
INPUT = Rule(
    "PD206",
    "asks a person",
    "replay would ask again: receive the answer as a message, workflow.receive()",
)
LOOP = Rule(
    "PD207",
    "uses another event loop",
    "a workflow has its own loop: await it, or do it in an activity",
)
PLAIN_FUNCTION = Rule(
    "PD301",
    "calls the plain function of an activity",
    "nothing would be recorded, and replay would repeat it: await the activity itself",
)
CLIENT = Rule(
    "PD302",
    "uses a node or a client",
    "replay would repeat it: use workflow.send(), workflow.cancel(), a child, or an activity",
)
FORGOTTEN = Rule(
    "PD303",
    "forgets an await",
    "the end of the workflow cancels the call, and nothing hears of its answer: write `await`",
)
_TOLD = "replay says it again: use workflow.logger, which is silent in replay"
PRINT = Rule("PD401", "prints", _TOLD, hint=True)
LOGGING = Rule("PD402", "logs", _TOLD, hint=True)
GLOBAL = Rule(
    "PD403",
    "writes into global state",
    "replay writes again, and other instances share it: use workflow.kv, or a local variable",
    hint=True,
)
UNREADABLE = Rule(
    "PD900", "cannot be read", "nothing in it was checked: correct the file, or leave it out"
)
UNUSED_IGNORE = Rule(
    "PD901", "ignores nothing", "remove the comment: there is no such finding here"
)
WRONG_IGNORE = Rule(
    "PD902", "a comment that ignores no known code", "write `# perdure: ignore[PD101]`"
)

RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        *(CLOCK, RANDOM, UUID, IDENTITY, ENVIRONMENT, SET_ORDER),
        *(FILE, NETWORK, PROCESS, THREAD, SLEEP, INPUT, LOOP),
        *(PLAIN_FUNCTION, CLIENT, FORGOTTEN),
        *(PRINT, LOGGING, GLOBAL),
        *(UNREADABLE, UNUSED_IGNORE, WRONG_IGNORE),
    )
}
"""Every rule by its code. Codes are for ever: a rule that goes takes its code with it."""

Row = tuple[str, Rule, str]

FORBIDDEN: tuple[Row, ...] = (
    (
        "time",
        CLOCK,
        "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time thread_time",
    ),
    (
        "time",
        CLOCK,
        "process_time_ns thread_time_ns clock_gettime clock_gettime_ns localtime() gmtime()",
    ),
    ("time", CLOCK, "ctime() asctime()"),
    ("time", SLEEP, "sleep"),
    ("datetime", CLOCK, "date.today datetime.now datetime.utcnow datetime.today"),
    ("random", RANDOM, "SystemRandom Random()"),
    # All functions of the module draw from one hidden generator. Its classes can be seeded.
    ("random", RANDOM, " ".join(name for name in random.__all__ if name.islower())),
    ("os", RANDOM, "urandom getrandom"),
    (
        "secrets",
        RANDOM,
        "token_bytes token_hex token_urlsafe randbelow randbits choice SystemRandom",
    ),
    ("uuid", UUID, "uuid1 uuid4 uuid6 uuid7 uuid8 getnode"),
    (
        "os",
        ENVIRONMENT,
        "environ environb getenv getenvb getpid getppid getcwd getlogin cpu_count uname",
    ),
    ("platform", ENVIRONMENT, "node platform uname"),
    ("socket", ENVIRONMENT, "gethostname getfqdn"),
    ("getpass", ENVIRONMENT, "getuser"),
    ("builtins", FILE, "open"),
    ("io", FILE, "open_code"),
    (
        "os",
        FILE,
        "open listdir scandir walk mkdir makedirs remove unlink rename replace rmdir stat access",
    ),
    ("os", FILE, "chmod chown link symlink truncate"),
    ("os.path", FILE, "exists isfile isdir islink getsize getmtime getctime getatime"),
    (
        "pathlib",
        FILE,
        "Path.open Path.read_text Path.read_bytes Path.write_text Path.write_bytes Path.exists",
    ),
    (
        "pathlib",
        FILE,
        "Path.stat Path.is_file Path.is_dir Path.iterdir Path.glob Path.rglob Path.mkdir",
    ),
    ("pathlib", FILE, "Path.touch"),
    (
        "pathlib",
        FILE,
        "Path.unlink Path.rename Path.replace Path.rmdir Path.symlink_to Path.cwd Path.home",
    ),
    ("glob", FILE, "glob iglob"),
    ("shutil", FILE, "copy copy2 copyfile copytree move rmtree"),
    ("tempfile", FILE, "mkstemp mkdtemp TemporaryFile NamedTemporaryFile TemporaryDirectory"),
    ("sqlite3", FILE, "connect"),
    ("aiofiles", FILE, "open"),
    ("anyio", FILE, "open_file Path"),
    (
        "socket",
        NETWORK,
        "socket create_connection create_server getaddrinfo gethostbyname gethostbyname_ex",
    ),
    ("socket", NETWORK, "gethostbyaddr socketpair"),
    ("asyncio", NETWORK, "open_connection start_server open_unix_connection start_unix_server"),
    ("anyio", NETWORK, "connect_tcp connect_unix create_tcp_listener getaddrinfo"),
    ("urllib.request", NETWORK, "urlopen urlretrieve"),
    ("http.client", NETWORK, "HTTPConnection HTTPSConnection"),
    ("smtplib", NETWORK, "SMTP SMTP_SSL"),
    ("ftplib", NETWORK, "FTP FTP_TLS"),
    ("requests", NETWORK, "request get post put patch delete head options session Session"),
    ("httpx", NETWORK, "request get post put patch delete head options stream Client AsyncClient"),
    ("urllib3", NETWORK, "request PoolManager"),
    ("aiohttp", NETWORK, "request ClientSession"),
    ("websockets", NETWORK, "connect"),
    ("grpc", NETWORK, "insecure_channel secure_channel"),
    ("boto3", NETWORK, "client resource Session"),
    ("psycopg", NETWORK, "connect Connection.connect AsyncConnection.connect"),
    ("psycopg2", NETWORK, "connect"),
    ("asyncpg", NETWORK, "connect create_pool"),
    ("pymongo", NETWORK, "MongoClient AsyncMongoClient"),
    ("redis", NETWORK, "Redis StrictRedis from_url"),
    ("redis.asyncio", NETWORK, "Redis StrictRedis from_url"),
    ("subprocess", PROCESS, "Popen run call check_call check_output getoutput getstatusoutput"),
    ("os", PROCESS, "system popen execv execve execl execlp execvp posix_spawn spawnl spawnv kill"),
    ("asyncio", PROCESS, "create_subprocess_exec create_subprocess_shell"),
    ("anyio", PROCESS, "run_process open_process"),
    ("os", THREAD, "fork forkpty"),
    ("threading", THREAD, "Thread Timer"),
    ("_thread", THREAD, "start_new_thread"),
    (
        "concurrent.futures",
        THREAD,
        "ThreadPoolExecutor ProcessPoolExecutor InterpreterPoolExecutor",
    ),
    ("multiprocessing", THREAD, "Process Pool"),
    ("asyncio", THREAD, "to_thread"),
    ("anyio.to_thread", THREAD, "run_sync"),
    ("anyio.to_process", THREAD, "run_sync"),
    ("anyio.from_thread", THREAD, "run run_sync start_blocking_portal"),
    ("builtins", INPUT, "input"),
    ("getpass", INPUT, "getpass"),
    ("asyncio", LOOP, "run Runner new_event_loop set_event_loop"),
    ("anyio", LOOP, "run"),
)
"""Module, rule, names.

`name()` is wrong only without arguments, because `Random(1)` and `gmtime(0)` repeat their results.
"""

SOURCE_ONLY: tuple[Row, ...] = (
    ("builtins", IDENTITY, "hash id"),
    (
        "numpy.random",
        RANDOM,
        "rand randn randint random random_sample choice shuffle permutation normal uniform seed",
    ),
    ("numpy.random", RANDOM, "default_rng() RandomState()"),
    ("perdure", CLIENT, "Client.open App.node Node"),
    ("builtins", PRINT, "print"),
    ("logging", LOGGING, "debug info warning error critical exception log"),
    (
        "logging",
        LOGGING,
        "Logger.debug Logger.info Logger.warning Logger.error Logger.critical Logger.exception",
    ),
    ("logging", LOGGING, "Logger.log"),
)
"""Rules of the lint alone. A node that starts would have to guess, or need not refuse the code."""

PRIVATE = {
    "concurrent.futures.ThreadPoolExecutor": "concurrent.futures.thread",
    "concurrent.futures.ProcessPoolExecutor": "concurrent.futures.process",
    "concurrent.futures.InterpreterPoolExecutor": "concurrent.futures.interpreter",
}
"""Names that a package loads lazily, with the module that then has the object."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A callable by its dotted name. `bare`: only a call without arguments is wrong."""

    name: str
    rule: Rule
    bare: bool


def entries(rows: tuple[Row, ...]) -> dict[str, Entry]:
    """Rows as entries by dotted name. Builtins have no dot."""
    found: dict[str, Entry] = {}
    for module, rule, names in rows:
        for spelled in names.split():
            name = spelled.removesuffix("()")
            dotted = f"{module}.{name}"
            if module == "builtins":
                dotted = name
            found[dotted] = Entry(dotted, rule, bare=spelled != name)
    return found


ENTRIES = entries(FORBIDDEN + SOURCE_ONLY)
"""All entries of the lint."""
