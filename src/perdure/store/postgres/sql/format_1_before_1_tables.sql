-- The tables of a store in one schema of a PostgreSQL database. All times are milliseconds since the
-- epoch, in store time. Values come from a commit, a message or another row. Two do not: the place
-- of a message, and the transaction that wrote it.
--
-- Text is compared byte by byte (COLLATE "C"), so that pages are the same in every store and on
-- every server.

CREATE TABLE meta (
    key text COLLATE "C" PRIMARY KEY,
    value text NOT NULL
);

-- Scopes and their owners. A commit is refused unless it names the epoch and the incarnation that
-- stand here.
CREATE TABLE scopes (
    scope text COLLATE "C" PRIMARY KEY,
    epoch bigint NOT NULL,
    node text,
    incarnation text COLLATE "C",
    clean boolean NOT NULL
);

-- Pages have room, so that an update that changes no indexed column stays on its page.
CREATE TABLE units (
    id text COLLATE "C" PRIMARY KEY,
    scope text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    type_version text COLLATE "C" NOT NULL,
    run bytea NOT NULL,
    execution bigint NOT NULL,
    format bigint NOT NULL,
    flags bigint NOT NULL,
    status text COLLATE "C" NOT NULL
        CHECK (status IN ('pending', 'running', 'suspended', 'completed', 'failed', 'cancelled')),
    reason text COLLATE "C",
    wake_at bigint,
    paused boolean NOT NULL,
    input_digest text COLLATE "C" NOT NULL,
    parent bytea,
    parent_unit text COLLATE "C",
    custom_status bytea,
    custom_status_version bigint NOT NULL,
    attributes bytea,
    result bytea,
    failure bytea,
    suspect bigint NOT NULL,
    journal_events bigint NOT NULL,
    journal_bytes bigint NOT NULL,
    created_at bigint NOT NULL,
    started_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    closed_at bigint,
    version bigint NOT NULL,
    commit_id bytea NOT NULL
) WITH (fillfactor = 75);

CREATE INDEX units_wake ON units (scope, wake_at, id)
    WHERE wake_at IS NOT NULL AND status IN ('pending', 'running', 'suspended');
-- Each index is paid for by every start. There is none for types: a list by type walks
-- `units_created` and filters.
CREATE INDEX units_created ON units (created_at, id);
CREATE INDEX units_status ON units (status, created_at, id);
CREATE INDEX units_parent ON units (parent_unit, created_at, id) WHERE parent_unit IS NOT NULL;

-- Runs of a unit that has several at a time. The unit's own run stands in `units`.
CREATE TABLE runs (
    unit text COLLATE "C" NOT NULL,
    run bytea NOT NULL,
    type text COLLATE "C" NOT NULL,
    execution bigint NOT NULL,
    first_seq bigint NOT NULL,
    status text COLLATE "C" NOT NULL
        CHECK (status IN ('pending', 'running', 'suspended', 'completed', 'failed', 'cancelled')),
    journal_events bigint NOT NULL,
    journal_bytes bigint NOT NULL,
    parent bytea,
    result bytea,
    failure bytea,
    started_at bigint NOT NULL,
    closed_at bigint,
    PRIMARY KEY (unit, run)
);

-- One row per turn: the events from `first` on, as one block of bytes. `run` is empty for the
-- unit's own run, here and in `executions`.
CREATE TABLE journal (
    unit text COLLATE "C" NOT NULL,
    run bytea NOT NULL,
    execution bigint NOT NULL,
    first bigint NOT NULL,
    count bigint NOT NULL,
    events bytea NOT NULL,
    PRIMARY KEY (unit, run, execution, first)
);

-- Executions that ended by continue-as-new. The current one stands in `units` or `runs`.
CREATE TABLE executions (
    unit text COLLATE "C" NOT NULL,
    run bytea NOT NULL,
    execution bigint NOT NULL,
    type_version text COLLATE "C" NOT NULL,
    started_at bigint NOT NULL,
    closed_at bigint NOT NULL,
    journal_events bigint NOT NULL,
    PRIMARY KEY (unit, run, execution)
);

-- The state of a unit, by part. `version` is that of the schema by which `data` was written.
CREATE TABLE state (
    unit text COLLATE "C" NOT NULL,
    part text COLLATE "C" NOT NULL,
    data bytea NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (unit, part)
);

-- A key's value now (NULL: deleted), and its value when `execution` began, which replay reads.
-- `updated_at` is when the value was written, `base_at` when the base was.
CREATE TABLE kv (
    unit text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    value bytea,
    base bytea,
    execution bigint NOT NULL,
    updated_at bigint NOT NULL,
    base_at bigint NOT NULL,
    PRIMARY KEY (unit, key)
);

-- Search attributes, by which lists are filtered: one row for each value (each text of a list). The
-- values themselves stand in `units`, and these rows are written when they change. `value_kind`: 1
-- text, 2 number, 3 truth, 4 time (microseconds). A text stands in `text_value`, all else in
-- `number_value`, which is exact for whole numbers and for floats. `created` repeats the unit's
-- `created_at`, so that the index gives the newest first.
CREATE TABLE attributes (
    unit text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    value_kind smallint NOT NULL,
    text_value text COLLATE "C",
    number_value numeric,
    created bigint NOT NULL
);

CREATE INDEX attributes_unit ON attributes (unit, name);
-- Only the beginning of a text: an index has no room for a text of 4 KB.
CREATE INDEX attributes_text ON attributes (name, left(text_value, 64), created, unit)
    WHERE text_value IS NOT NULL;
CREATE INDEX attributes_number ON attributes (name, value_kind, number_value, created, unit)
    WHERE number_value IS NOT NULL;

-- Messages that wait, in the order of `position`. Transactions run side by side, so a message can
-- become visible behind another one with a higher position. `written` is its transaction. A reader
-- remembers a snapshot of transactions, and goes on with messages that the snapshot does not show.
-- A message is `homeless` when its unit did not exist as it arrived. Without an index of those, each
-- sweep would have to look at every message that waits. `replaces`: a start that gives a closed unit
-- a new run.
CREATE TABLE inbox (
    unit text COLLATE "C" NOT NULL,
    message bytea NOT NULL,
    position bigint NOT NULL,
    written xid8 NOT NULL DEFAULT pg_current_xact_id(),
    scope text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    body bytea NOT NULL,
    at bigint NOT NULL,
    visible_at bigint NOT NULL,
    sender text COLLATE "C",
    previous bytea,
    homeless boolean NOT NULL,
    replaces boolean NOT NULL,
    PRIMARY KEY (unit, message)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

CREATE INDEX inbox_unit ON inbox (unit, written);
CREATE INDEX inbox_written ON inbox (written);
CREATE INDEX inbox_visible ON inbox (scope, visible_at, unit);
CREATE INDEX inbox_homeless ON inbox (scope, at) WHERE homeless;
-- Whether a start waits for a unit, without a look at everything else that does.
CREATE INDEX inbox_start ON inbox (unit) WHERE kind = 'Start';

CREATE SEQUENCE places;

-- Answers to consumed client messages, so that a retry gets the same.
CREATE TABLE answers (
    unit text COLLATE "C" NOT NULL,
    message bytea NOT NULL,
    scope text COLLATE "C" NOT NULL,
    outcome text NOT NULL,
    expires_at bigint NOT NULL,
    data bytea,
    failure bytea,
    PRIMARY KEY (unit, message)
);

CREATE INDEX answers_expiry ON answers (scope, expires_at);

-- One row is one attempt of an activity for a pool of workers. A missing row means cancelled or
-- lost.
CREATE TABLE tasks (
    unit text COLLATE "C" NOT NULL,
    run bytea NOT NULL,
    execution bigint NOT NULL,
    seq bigint NOT NULL,
    attempt bigint NOT NULL,
    scope text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    input bytea NOT NULL,
    visible_at bigint NOT NULL,
    worker text COLLATE "C",
    token bytea,
    expires_at bigint,
    details bytea,
    tag text COLLATE "C",
    rank bigint NOT NULL,
    key text COLLATE "C",
    session text COLLATE "C",
    ends_at bigint,
    leased_at bigint,
    call bytea NOT NULL,
    PRIMARY KEY (unit, run, execution, seq, attempt)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

CREATE INDEX tasks_waiting ON tasks (queue, visible_at) WHERE worker IS NULL;
CREATE INDEX tasks_in_line ON tasks (queue, rank, visible_at, unit, run, execution, seq, attempt)
    WHERE worker IS NULL;
CREATE INDEX tasks_held ON tasks (queue, key, expires_at) WHERE worker IS NOT NULL;
CREATE INDEX tasks_leased ON tasks (scope, expires_at, unit) WHERE expires_at IS NOT NULL;

-- The worker to which all tasks of a session go, until it does not hold the session any more.
CREATE TABLE sessions (
    queue text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    worker text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL,
    PRIMARY KEY (queue, session)
);

CREATE INDEX sessions_expiry ON sessions (expires_at);

-- When tasks of a queue with a rate began. Workers that depend on each other lock its row.
CREATE TABLE queues (
    queue text COLLATE "C" PRIMARY KEY,
    starts bytea
);

-- A deletion leaves two rows, each as small as its purpose allows. A tombstone stays as long as the
-- start of the deleted run may come again. A run has an id of its own, so that is all it needs. A
-- deletion stays as long as its commit may be submitted again.
CREATE TABLE tombstones (
    run bytea PRIMARY KEY,
    scope text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL
);

CREATE INDEX tombstones_expiry ON tombstones (scope, expires_at);

CREATE TABLE deletions (
    unit text COLLATE "C" PRIMARY KEY,
    commit_id bytea NOT NULL,
    scope text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL
);

CREATE INDEX deletions_expiry ON deletions (scope, expires_at);

-- Messages that no unit took, and why.
CREATE TABLE dead_letters (
    unit text COLLATE "C" NOT NULL,
    message bytea NOT NULL,
    scope text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    body bytea NOT NULL,
    at bigint NOT NULL,
    sender text COLLATE "C",
    expires_at bigint NOT NULL,
    reason text COLLATE "C" NOT NULL,
    PRIMARY KEY (unit, message)
);

CREATE INDEX dead_letters_by_message ON dead_letters (message);
CREATE INDEX dead_letters_expiry ON dead_letters (scope, expires_at);

-- ---------------------------------------------------------------- ownership

-- The key of the lock that all commits of an incarnation take. A claim takes the lock of each owner
-- from which it takes a scope, and so waits until the commits of that owner are decided. Commits of
-- other owners do not wait for it.
CREATE FUNCTION fence_key(incarnation text) RETURNS bigint
LANGUAGE sql STABLE
RETURN hashtextextended(current_schema() || '/' || incarnation, 7305);

CREATE FUNCTION lock_fences(incarnations text[]) RETURNS void
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
DECLARE
    incarnation_ text;
BEGIN
    -- In one order, so that two transactions with several fences do not wait for each other.
    FOR incarnation_ IN
        SELECT DISTINCT given.name FROM unnest(incarnations) AS given (name)
        WHERE given.name IS NOT NULL ORDER BY given.name
    LOOP
        PERFORM pg_advisory_xact_lock(fence_key(incarnation_));
    END LOOP;
END
$$;

CREATE FUNCTION claim(
    wanted text[], node_ text, incarnation_ text,
    OUT scope_ text, OUT epoch_ bigint, OUT clean_ boolean
) RETURNS SETOF record
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO scopes (scope, epoch, clean)
    SELECT DISTINCT name, 0, true FROM unnest(wanted) AS given (name) ORDER BY name
    ON CONFLICT DO NOTHING;
    PERFORM FROM scopes WHERE scope = ANY (wanted) ORDER BY scope FOR UPDATE;
    -- Rows first: who holds a row may wait for a commit, and no commit waits for a row.
    PERFORM lock_fences(
        (SELECT array_agg(DISTINCT incarnation) FROM scopes WHERE scope = ANY (wanted))
    );
    RETURN QUERY
    UPDATE scopes SET
        epoch = scopes.epoch + 1, node = node_, incarnation = incarnation_, clean = false
    FROM scopes AS before
    WHERE scopes.scope = ANY (wanted) AND before.scope = scopes.scope
    RETURNING scopes.scope, scopes.epoch, before.clean;
END
$$;

-- A fence names the epoch, too: the same incarnation may have claimed the scope again since.
CREATE FUNCTION held(scopes_ text[], epochs bigint[], incarnations text[]) RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path FROM CURRENT
AS $$
    SELECT scopes.scope
    FROM unnest(scopes_, epochs, incarnations) AS fence (scope, epoch, incarnation)
    JOIN scopes ON scopes.scope = fence.scope
        AND scopes.epoch = fence.epoch AND scopes.incarnation = fence.incarnation
    ORDER BY scopes.scope
$$;

CREATE FUNCTION release(scopes_ text[], epochs bigint[], incarnations text[])
RETURNS SETOF text
LANGUAGE plpgsql
SET search_path FROM CURRENT
AS $$
BEGIN
    PERFORM FROM scopes WHERE scope = ANY (scopes_) ORDER BY scope FOR UPDATE;
    -- Commits that have begun end first: the next owner would not wait for them.
    PERFORM lock_fences(incarnations);
    RETURN QUERY
    UPDATE scopes SET node = NULL, incarnation = NULL, clean = true
    WHERE scope IN (SELECT * FROM held(scopes_, epochs, incarnations))
    RETURNING scope;
END
$$;
