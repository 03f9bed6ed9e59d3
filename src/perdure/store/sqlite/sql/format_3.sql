-- The tables of a store in one SQLite file. All times are milliseconds since the epoch, in store
-- time. No defaults, clocks, random values or generated keys: every value comes from a commit, a
-- message or another row.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- Scopes and their owners. A commit is refused unless it names the epoch and the incarnation that
-- stand here.
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
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'running', 'suspended', 'completed', 'failed', 'cancelled')),
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
-- Each index is paid for by every start. There is none for types: a list by type walks
-- `units_created` and filters.
CREATE INDEX units_created ON units (created_at);
CREATE INDEX units_status ON units (status, created_at);
CREATE INDEX units_parent ON units (parent_unit, created_at) WHERE parent_unit IS NOT NULL;

-- Runs of a unit that has several at a time. The unit's own run stands in `units`.
CREATE TABLE runs (
    unit TEXT NOT NULL,
    run BLOB NOT NULL,
    type TEXT NOT NULL,
    execution INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'running', 'suspended', 'completed', 'failed', 'cancelled')),
    journal_events INTEGER NOT NULL,
    journal_bytes INTEGER NOT NULL,
    parent BLOB,
    result BLOB,
    failure BLOB,
    started_at INTEGER NOT NULL,
    closed_at INTEGER,
    PRIMARY KEY (unit, run)
) WITHOUT ROWID;

-- One row per turn: the events from `first` on, as one block of bytes. `run` is empty for the
-- unit's own run, here and in `executions`.
CREATE TABLE journal (
    unit TEXT NOT NULL,
    run BLOB NOT NULL,
    execution INTEGER NOT NULL,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    events BLOB NOT NULL,
    PRIMARY KEY (unit, run, execution, first)
) WITHOUT ROWID;

-- Executions that ended by continue-as-new. The current one stands in `units` or `runs`.
CREATE TABLE executions (
    unit TEXT NOT NULL,
    run BLOB NOT NULL,
    execution INTEGER NOT NULL,
    type_version TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    closed_at INTEGER NOT NULL,
    journal_events INTEGER NOT NULL,
    PRIMARY KEY (unit, run, execution)
) WITHOUT ROWID;

-- The state of a unit, by part. `version` is that of the schema by which `data` was written.
CREATE TABLE state (
    unit TEXT NOT NULL,
    part TEXT NOT NULL,
    data BLOB NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (unit, part)
) WITHOUT ROWID;

-- A key's value now (NULL: deleted), and its value when `execution` began, which replay reads.
-- `updated_at` is when the value was written, `base_at` when the base was.
CREATE TABLE kv (
    unit TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB,
    base BLOB,
    execution INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    base_at INTEGER NOT NULL,
    PRIMARY KEY (unit, key)
) WITHOUT ROWID;

-- Search attributes, by which lists are filtered: one row for each value (each text of a list). The
-- values themselves stand in `units`, and these rows are written when they change. `value_kind`: 1
-- text, 2 number, 3 truth, 4 time (microseconds). `created` repeats the unit's `created_at`, so
-- that the index gives the newest first.
CREATE TABLE attributes (
    unit TEXT NOT NULL,
    name TEXT NOT NULL,
    value_kind INTEGER NOT NULL,
    value NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (unit, name, value_kind, value)
) WITHOUT ROWID;

CREATE INDEX attributes_value ON attributes (name, value_kind, value, created, unit);

-- Messages that wait. Places count over all inboxes. A place is never used again, so that a reader
-- that has read up to a place misses nothing behind it. `places` holds the last one. A message is
-- `homeless` when its unit did not exist as it arrived. Without an index of those, each sweep would
-- have to look at every message that waits.
CREATE TABLE inbox (
    position INTEGER PRIMARY KEY,
    unit TEXT NOT NULL,
    message BLOB NOT NULL,
    scope TEXT NOT NULL,
    kind TEXT NOT NULL,
    body BLOB NOT NULL,
    at INTEGER NOT NULL,
    visible_at INTEGER NOT NULL,
    sender TEXT,
    previous BLOB,
    homeless INTEGER NOT NULL
);

-- A row's position is the end of each key: this index gives a unit's messages in order.
CREATE INDEX inbox_unit ON inbox (unit);
CREATE UNIQUE INDEX inbox_message ON inbox (unit, message);
CREATE INDEX inbox_visible ON inbox (scope, visible_at);
CREATE INDEX inbox_homeless ON inbox (scope, at) WHERE homeless;
-- Whether a start waits for a unit, without a look at everything else that does.
CREATE INDEX inbox_start ON inbox (unit) WHERE kind = 'Start';

CREATE TABLE places (
    last INTEGER NOT NULL
);

INSERT INTO places (last) VALUES (0);

-- How many messages wait for a unit, so that a post need not count them. Triggers keep the number:
-- whatever puts a message in or takes one out, it is right.
CREATE TABLE inboxes (
    unit TEXT PRIMARY KEY,
    messages INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TRIGGER inbox_added AFTER INSERT ON inbox BEGIN
    INSERT INTO inboxes (unit, messages) VALUES (new.unit, 1)
        ON CONFLICT (unit) DO UPDATE SET messages = messages + 1;
END;

CREATE TRIGGER inbox_removed AFTER DELETE ON inbox BEGIN
    UPDATE inboxes SET messages = messages - 1 WHERE unit = old.unit;
    DELETE FROM inboxes WHERE unit = old.unit AND messages = 0;
END;

-- Answers to consumed client messages, so that a retry gets the same.
CREATE TABLE answers (
    unit TEXT NOT NULL,
    message BLOB NOT NULL,
    scope TEXT NOT NULL,
    outcome TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    data BLOB,
    failure BLOB,
    PRIMARY KEY (unit, message)
) WITHOUT ROWID;

CREATE INDEX answers_expiry ON answers (scope, expires_at);

-- One row is one attempt of an activity for a pool of workers. A missing row means cancelled or
-- lost.
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
    tag TEXT,
    rank INTEGER NOT NULL,
    key TEXT,
    session TEXT,
    ends_at INTEGER,
    leased_at INTEGER,
    call BLOB NOT NULL,
    PRIMARY KEY (unit, run, execution, seq, attempt)
) WITHOUT ROWID;

CREATE INDEX tasks_waiting ON tasks (queue, visible_at) WHERE worker IS NULL;
CREATE INDEX tasks_in_line ON tasks (queue, rank, visible_at) WHERE worker IS NULL;
CREATE INDEX tasks_held ON tasks (queue, key, expires_at) WHERE worker IS NOT NULL;
CREATE INDEX tasks_leased ON tasks (scope, expires_at) WHERE expires_at IS NOT NULL;

-- The worker to which all tasks of a session go, until it does not hold the session any more.
CREATE TABLE sessions (
    queue TEXT NOT NULL,
    session TEXT NOT NULL,
    worker TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (queue, session)
) WITHOUT ROWID;

CREATE INDEX sessions_expiry ON sessions (expires_at);

-- When tasks of a queue with a rate began. Queues without one have no row.
CREATE TABLE queues (
    queue TEXT PRIMARY KEY,
    starts BLOB NOT NULL
) WITHOUT ROWID;

-- A deletion leaves two rows, each as small as its purpose allows. A tombstone stays as long as the
-- start of the deleted run may come again. A run has an id of its own, so that is all it needs. A
-- deletion stays as long as its commit may be submitted again.
CREATE TABLE tombstones (
    run BLOB PRIMARY KEY,
    scope TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX tombstones_expiry ON tombstones (scope, expires_at);

CREATE TABLE deletions (
    unit TEXT PRIMARY KEY,
    commit_id BLOB NOT NULL,
    scope TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX deletions_expiry ON deletions (scope, expires_at);

-- Messages that no unit took, and why.
CREATE TABLE dead_letters (
    unit TEXT NOT NULL,
    message BLOB NOT NULL,
    scope TEXT NOT NULL,
    kind TEXT NOT NULL,
    body BLOB NOT NULL,
    at INTEGER NOT NULL,
    sender TEXT,
    expires_at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (unit, message)
) WITHOUT ROWID;

CREATE INDEX dead_letters_by_message ON dead_letters (message);
CREATE INDEX dead_letters_expiry ON dead_letters (scope, expires_at);
