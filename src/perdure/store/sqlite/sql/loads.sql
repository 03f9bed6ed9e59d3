-- Units as stored, and histories. There is one statement per table for all units that are asked
-- for. Each walks a key in order, so nothing has to be sorted.

-- name: load_units
SELECT
    id, scope, kind, type, type_version, run, execution, format, flags, status, reason, wake_at,
    paused, input_digest, parent, parent_unit, custom_status, custom_status_version, attributes,
    result, failure, suspect, journal_events, journal_bytes, created_at, started_at, updated_at,
    closed_at, version
FROM units WHERE id IN (SELECT value FROM json_each(?));

-- name: load_journal
-- CROSS JOIN keeps the order: the unit says which execution is the current one, and the journal of
-- that is walked.
SELECT id, journal.execution, first, count, events
FROM units CROSS JOIN journal
    ON journal.unit = id AND journal.run = x'' AND journal.execution = units.execution
WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id, first;

-- name: load_runs
SELECT
    unit, run, type, execution, first_seq, status, journal_events, journal_bytes, parent, result,
    failure, started_at, closed_at
FROM runs WHERE unit IN (SELECT value FROM json_each(?)) ORDER BY unit, run;

-- name: load_run_journals
SELECT runs.unit, journal.execution, first, count, events, runs.run
FROM runs CROSS JOIN journal
    ON journal.unit = runs.unit AND journal.run = runs.run AND journal.execution = runs.execution
WHERE runs.unit IN (SELECT value FROM json_each(?)) ORDER BY runs.unit, runs.run, first;

-- name: load_state
SELECT unit, part, data, version FROM state
WHERE unit IN (SELECT value FROM json_each(?)) ORDER BY unit, part;

-- name: load_kv
SELECT unit, key, value, base, execution, updated_at, base_at FROM kv
WHERE unit IN (SELECT value FROM json_each(?)) ORDER BY unit, key;

-- name: load_inbox
SELECT message, unit, body, at, visible_at, sender, previous, scope, position FROM inbox
WHERE unit IN (SELECT value FROM json_each(?)) ORDER BY unit, position;

-- name: load_tasks
SELECT
    unit, run, execution, seq, attempt, scope, queue, name, input, visible_at, worker, token,
    expires_at, details, tag, rank, key, session, ends_at, leased_at, call
FROM tasks WHERE unit IN (SELECT value FROM json_each(?))
ORDER BY unit, run, execution, seq, attempt;

-- name: versions
SELECT id, version FROM units WHERE id IN (SELECT value FROM json_each(?));

-- name: inbox
SELECT message, unit, body, at, visible_at, sender, previous, scope, position FROM inbox
WHERE unit = ? AND position > ? ORDER BY position LIMIT ?;

-- name: starts
-- The first start of a client for each id without a unit.
SELECT message, unit, body, at, visible_at, sender, previous, scope, position FROM inbox
WHERE kind = 'Start' AND sender IS NULL AND position < ?
    AND NOT EXISTS (SELECT 1 FROM units WHERE id = inbox.unit)
    AND NOT EXISTS (
        SELECT 1 FROM inbox AS first
        WHERE first.unit = inbox.unit AND first.kind = 'Start' AND first.sender IS NULL
            AND first.position < inbox.position
    )
ORDER BY position DESC LIMIT ?;

-- name: starts_of
-- The same for some ids. It costs no more the more starts there are.
SELECT message, unit, body, at, visible_at, sender, previous, scope, position FROM inbox
WHERE unit IN (SELECT value FROM json_each(?)) AND kind = 'Start' AND sender IS NULL
    AND position < ? AND NOT EXISTS (SELECT 1 FROM units WHERE id = inbox.unit)
    AND NOT EXISTS (
        SELECT 1 FROM inbox AS first
        WHERE first.unit = inbox.unit AND first.kind = 'Start' AND first.sender IS NULL
            AND first.position < inbox.position
    )
ORDER BY position DESC LIMIT ?;

-- name: arrivals
-- Walks the rows behind the place, whatever their scope: `+scope` keeps SQLite from walking all
-- messages of a scope.
SELECT position, unit FROM inbox
WHERE position > ? AND +scope IN (SELECT value FROM json_each(?)) ORDER BY position;

-- name: due_scopes
-- Most of many scopes have nothing, and a look into each index costs less than a query.
SELECT value FROM json_each(:scopes) WHERE value >= :first AND (
    EXISTS (
        SELECT 1 FROM units
        WHERE scope = value AND wake_at <= :until AND status IN ('pending', 'running', 'suspended')
    )
    OR EXISTS (SELECT 1 FROM inbox WHERE scope = value AND visible_at <= :until)
    OR EXISTS (SELECT 1 FROM tasks WHERE scope = value AND expires_at <= :until)
) ORDER BY value;

-- name: wakes
-- Each arm walks its index in order, so that a page costs what it holds.
SELECT at, unit, coalesce((SELECT suspect FROM units WHERE id = unit), 0),
    EXISTS (SELECT 1 FROM inbox WHERE inbox.unit = due.unit AND inbox.visible_at <= :until)
FROM (
    SELECT wake_at AS at, id AS unit FROM units
    WHERE scope = :scope AND wake_at <= :until AND (wake_at, id) > (:at, :unit)
        AND status IN ('pending', 'running', 'suspended')
    UNION
    SELECT visible_at, unit FROM inbox
    WHERE scope = :scope AND visible_at <= :until AND (visible_at, unit) > (:at, :unit)
    UNION
    SELECT expires_at, unit FROM tasks
    WHERE scope = :scope AND expires_at <= :until AND (expires_at, unit) > (:at, :unit)
    ORDER BY 1, 2 LIMIT :limit
) AS due;

-- name: next_wake
-- A subquery for each scope, because the minimum of one scope is the first entry of its index.
SELECT min(at) FROM (
    SELECT (
        SELECT min(wake_at) FROM units
        WHERE scope = value AND wake_at > ?2 AND status IN ('pending', 'running', 'suspended')
    ) AS at FROM json_each(?1)
    UNION ALL
    SELECT (SELECT min(visible_at) FROM inbox WHERE scope = value AND visible_at > ?2)
    FROM json_each(?1)
    UNION ALL
    SELECT (SELECT min(expires_at) FROM tasks WHERE scope = value AND expires_at > ?2)
    FROM json_each(?1)
);

-- name: current_execution
SELECT coalesce((SELECT execution FROM units WHERE id = ?), 0);

-- name: run_execution
SELECT coalesce((SELECT execution FROM runs WHERE unit = ? AND run = ?), 0);

-- name: journal
SELECT execution, first, count, events, run FROM journal
WHERE unit = ? AND run = ? AND execution = ? AND first > ? ORDER BY first LIMIT ?;

-- name: executions
SELECT execution, type_version, started_at, closed_at, journal_events, run FROM executions
WHERE unit = ? AND run = ? AND execution > ? ORDER BY execution LIMIT ?;
