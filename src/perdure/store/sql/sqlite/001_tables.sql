-- The tables of a store in one SQLite file. All times are milliseconds since the epoch, in store time.
-- No defaults, clocks, random values or generated keys: every value comes from a commit, a message or another row.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- Who owns what. A commit is refused unless it names the epoch and the incarnation that stand here.
CREATE TABLE scopes (
    scope TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    node TEXT,
    incarnation TEXT,
    clean INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE units (
    id TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    kind TEXT NOT NULL,
    type TEXT NOT NULL,
    type_version TEXT NOT NULL,
    run BLOB NOT NULL,
    execution INTEGER NOT NULL,
    format INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'running', 'suspended', 'completed', 'failed', 'cancelled')),
    reason TEXT,
    wake_at INTEGER,
    paused INTEGER NOT NULL,
    input_digest TEXT NOT NULL,
    parent BLOB,
    parent_unit TEXT,
    custom_status BLOB,
    custom_status_version INTEGER NOT NULL,
    attributes BLOB,
    result BLOB,
    failure BLOB,
    suspect INTEGER NOT NULL,
    journal_events INTEGER NOT NULL,
    journal_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    closed_at INTEGER,
    version INTEGER NOT NULL,
    commit_id BLOB NOT NULL
) WITHOUT ROWID;

CREATE INDEX units_wake ON units (scope, wake_at)
    WHERE wake_at IS NOT NULL AND status IN ('pending', 'running', 'suspended');
-- Each index is paid for by every start. There is none for types: a list by type walks `units_created` and filters.
CREATE INDEX units_created ON units (created_at);
CREATE INDEX units_status ON units (status, created_at);
CREATE INDEX units_parent ON units (parent_unit, created_at) WHERE parent_unit IS NOT NULL;

-- One row per turn: the events from `first` on, as one block of bytes.
CREATE TABLE journal (
    unit TEXT NOT NULL,
    execution INTEGER NOT NULL,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    events BLOB NOT NULL,
    PRIMARY KEY (unit, execution, first)
) WITHOUT ROWID;

-- Executions that ended by continue-as-new; the current one stands in `units`.
CREATE TABLE executions (
    unit TEXT NOT NULL,
    execution INTEGER NOT NULL,
    type_version TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    closed_at INTEGER NOT NULL,
    journal_events INTEGER NOT NULL,
    PRIMARY KEY (unit, execution)
) WITHOUT ROWID;

-- A key's value now (NULL: deleted), and its value when `execution` began, which replay reads.
CREATE TABLE kv (
    unit TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB,
    base BLOB,
    execution INTEGER NOT NULL,
    PRIMARY KEY (unit, key)
) WITHOUT ROWID;

-- Messages that wait. `position` is one more than the largest of the unit's inbox: the order is a function of the
-- rows.
CREATE TABLE inbox (
    unit TEXT NOT NULL,
    position INTEGER NOT NULL,
    message BLOB NOT NULL,
    scope TEXT NOT NULL,
    kind TEXT NOT NULL,
    body BLOB NOT NULL,
    at INTEGER NOT NULL,
    visible_at INTEGER NOT NULL,
    sender TEXT,
    previous BLOB,
    PRIMARY KEY (unit, position)
) WITHOUT ROWID;

CREATE UNIQUE INDEX inbox_message ON inbox (unit, message);
CREATE INDEX inbox_visible ON inbox (scope, visible_at);

-- What consumed client messages were answered, so that a retry gets the same.
CREATE TABLE answers (
    unit TEXT NOT NULL,
    message BLOB NOT NULL,
    scope TEXT NOT NULL,
    outcome TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (unit, message)
) WITHOUT ROWID;

CREATE INDEX answers_expiry ON answers (scope, expires_at);

-- One row is one attempt of an activity for a pool of workers. A missing row means cancelled or lost.
CREATE TABLE tasks (
    unit TEXT NOT NULL,
    run BLOB NOT NULL,
    execution INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    scope TEXT NOT NULL,
    queue TEXT NOT NULL,
    name TEXT NOT NULL,
    input BLOB NOT NULL,
    visible_at INTEGER NOT NULL,
    worker TEXT,
    token BLOB,
    expires_at INTEGER,
    details BLOB,
    PRIMARY KEY (unit, execution, seq, attempt)
) WITHOUT ROWID;

CREATE INDEX tasks_waiting ON tasks (queue, visible_at) WHERE worker IS NULL;
CREATE INDEX tasks_leased ON tasks (scope, expires_at) WHERE expires_at IS NOT NULL;

-- Deleted runs: a start that is delivered again must not run again. `commit_id` answers a deletion that is submitted
-- again.
CREATE TABLE tombstones (
    unit TEXT NOT NULL,
    run BLOB NOT NULL,
    scope TEXT NOT NULL,
    commit_id BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (unit, run)
) WITHOUT ROWID;

CREATE INDEX tombstones_expiry ON tombstones (scope, expires_at);

-- Messages whose target never came to be.
CREATE TABLE dead_letters (
    unit TEXT NOT NULL,
    message BLOB NOT NULL,
    scope TEXT NOT NULL,
    kind TEXT NOT NULL,
    body BLOB NOT NULL,
    at INTEGER NOT NULL,
    sender TEXT,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (unit, message)
) WITHOUT ROWID;

CREATE INDEX dead_letters_expiry ON dead_letters (scope, expires_at);
