-- Units as stored, and histories. There is one statement per table for all units that are asked for.

-- name: load_units
SELECT
    id, scope, kind, type, type_version, run, execution, format, flags, status, reason, wake_at,
    paused, input_digest, parent, parent_unit, custom_status, custom_status_version, attributes,
    result, failure, suspect, journal_events, journal_bytes, created_at, started_at, updated_at,
    closed_at, version
FROM units WHERE id = ANY ($1::text[]);

-- name: load_journal
SELECT id, journal.execution, first, count, events
FROM units JOIN journal
    ON journal.unit = id AND journal.run = '' AND journal.execution = units.execution
WHERE id = ANY ($1::text[]) ORDER BY id, first;

-- name: load_runs
SELECT
    unit, run, type, execution, first_seq, status, journal_events, journal_bytes, parent, result,
    failure, started_at, closed_at
FROM runs WHERE unit = ANY ($1::text[]) ORDER BY unit, run;

-- name: load_run_journals
SELECT runs.unit, journal.execution, first, count, events, runs.run
FROM runs JOIN journal
    ON journal.unit = runs.unit AND journal.run = runs.run AND journal.execution = runs.execution
WHERE runs.unit = ANY ($1::text[]) ORDER BY runs.unit, runs.run, first;

-- name: load_state
SELECT unit, part, data, version FROM state
WHERE unit = ANY ($1::text[]) ORDER BY unit, part;

-- name: load_kv
SELECT unit, key, value, base, execution, updated_at, base_at FROM kv
WHERE unit = ANY ($1::text[]) ORDER BY unit, key;

-- name: load_inbox
SELECT message, unit, body, at, visible_at, sender, previous, scope FROM inbox
WHERE unit = ANY ($1::text[]) ORDER BY unit, position;

-- name: load_tasks
SELECT
    unit, run, execution, seq, attempt, scope, queue, name, input, visible_at, worker, token,
    expires_at, details, tag, rank, key, session, ends_at, leased_at, call
FROM tasks WHERE unit = ANY ($1::text[])
ORDER BY unit, run, execution, seq, attempt;

-- name: version
SELECT version, scope FROM units WHERE id = $1;

-- name: snapshot
SELECT pg_current_snapshot()::text;

-- name: now
SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint;

-- name: inbox
-- The snapshot comes with each row, because a reader goes on from the one that it has read in.
SELECT
    message, unit, body, at, visible_at, sender, previous, scope, position,
    pg_current_snapshot()::text
FROM inbox WHERE unit = $1 AND position > $2 ORDER BY position LIMIT $3;

-- name: inbox_since
-- No transaction below the first bound of the snapshot is hidden by it, so the index ends there.
SELECT
    message, unit, body, at, visible_at, sender, previous, scope, position,
    pg_current_snapshot()::text
FROM inbox
WHERE unit = $1 AND position > $2 AND written >= pg_snapshot_xmin($4::text::pg_snapshot)
    AND NOT pg_visible_in_snapshot(written, $4::text::pg_snapshot)
ORDER BY position LIMIT $3;

-- name: starts
-- The first start of a client for each id without a unit.
SELECT message, unit, body, at, visible_at, sender, previous, scope, position FROM inbox
WHERE kind = 'Start' AND sender IS NULL AND ($1::bigint IS NULL OR position < $1)
    AND NOT EXISTS (SELECT FROM units WHERE id = inbox.unit)
    AND NOT EXISTS (
        SELECT FROM inbox AS first
        WHERE first.unit = inbox.unit AND first.kind = 'Start' AND first.sender IS NULL
            AND first.position < inbox.position
    )
ORDER BY position DESC LIMIT $2;

-- name: starts_of
-- The same for some ids. It costs no more the more starts there are.
SELECT message, unit, body, at, visible_at, sender, previous, scope, position FROM inbox
WHERE unit = ANY ($1::text[]) AND kind = 'Start' AND sender IS NULL
    AND ($2::bigint IS NULL OR position < $2)
    AND NOT EXISTS (SELECT FROM units WHERE id = inbox.unit)
    AND NOT EXISTS (
        SELECT FROM inbox AS first
        WHERE first.unit = inbox.unit AND first.kind = 'Start' AND first.sender IS NULL
            AND first.position < inbox.position
    )
ORDER BY position DESC LIMIT $3;

-- name: arrivals
SELECT min(position), unit FROM inbox
WHERE position > $1 AND scope = ANY ($2::text[])
    AND written >= pg_snapshot_xmin($4::text::pg_snapshot)
    AND NOT pg_visible_in_snapshot(written, $4::text::pg_snapshot)
GROUP BY unit ORDER BY 1 LIMIT $3;

-- name: wakes
-- Each arm walks its index in order from the place on, scope by scope, so that a page costs what it
-- holds. The scopes come sorted, and a nested loop keeps their order.
SELECT
    due.scope, due.at, due.unit,
    coalesce((SELECT suspect FROM units WHERE id = due.unit), 0),
    EXISTS (SELECT FROM inbox WHERE inbox.unit = due.unit AND inbox.visible_at <= $4)
FROM (
    SELECT s.scope, found.at, found.unit
    FROM unnest($1::text[], $2::bigint[], $3::text[]) AS s (scope, since, behind)
    CROSS JOIN LATERAL (
        (
            SELECT wake_at AS at, id AS unit FROM units
            WHERE units.scope = s.scope AND wake_at <= $4 AND (wake_at, id) > (s.since, s.behind)
                AND status IN ('pending', 'running', 'suspended')
            ORDER BY wake_at, id LIMIT $5
        )
        UNION
        (
            SELECT visible_at, unit FROM inbox
            WHERE inbox.scope = s.scope AND visible_at <= $4
                AND (visible_at, unit) > (s.since, s.behind)
            ORDER BY visible_at, unit LIMIT $5
        )
        UNION
        (
            SELECT expires_at, unit FROM tasks
            WHERE tasks.scope = s.scope AND expires_at <= $4
                AND (expires_at, unit) > (s.since, s.behind)
            ORDER BY expires_at, unit LIMIT $5
        )
        ORDER BY 1, 2
    ) AS found
    LIMIT $5
) AS due;

-- name: next_wake
-- A subquery for each scope, because the minimum of one scope is the first entry of its index.
SELECT min(least(
    (
        SELECT min(wake_at) FROM units
        WHERE units.scope = s.scope AND wake_at > $2
            AND status IN ('pending', 'running', 'suspended')
    ),
    (SELECT min(visible_at) FROM inbox WHERE inbox.scope = s.scope AND visible_at > $2),
    (SELECT min(expires_at) FROM tasks WHERE tasks.scope = s.scope AND expires_at > $2)
))
FROM unnest($1::text[]) AS s (scope);

-- name: current_execution
SELECT coalesce((SELECT execution FROM units WHERE id = $1), 0);

-- name: run_execution
SELECT coalesce((SELECT execution FROM runs WHERE unit = $1 AND run = $2), 0);

-- name: journal
SELECT execution, first, count, events, run FROM journal
WHERE unit = $1 AND run = $2 AND execution = $3 AND first > $4 ORDER BY first LIMIT $5;

-- name: executions
SELECT execution, type_version, started_at, closed_at, journal_events, run FROM executions
WHERE unit = $1 AND run = $2 AND execution > $3 ORDER BY execution LIMIT $4;
