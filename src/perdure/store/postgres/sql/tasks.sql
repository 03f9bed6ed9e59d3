-- Tasks and their leases, and rows that other calls remove.

-- name: find_waiting
-- Tasks that another worker is taking at this moment are skipped. NULL for the names means all of
-- them. A task without a tag is for every worker, unless the sixth argument says that only tagged
-- ones are wanted. The keys that are full are the seventh, the worker is the eighth, and the ninth
-- says whether it may open sessions.
SELECT
    unit, run, execution, seq, attempt, scope, queue, name, input, visible_at, worker, token,
    expires_at, details, tag, rank, key, session, ends_at, leased_at, call
FROM tasks
WHERE queue = $1 AND worker IS NULL AND visible_at <= $2
    AND ($3::text[] IS NULL OR name = ANY ($3))
    AND ((tag IS NULL AND NOT $6::boolean) OR tag = ANY ($4::text[]))
    AND (key IS NULL OR key <> ALL ($7::text[]))
    AND (
        session IS NULL
        OR coalesce((
            SELECT held.worker = $8 FROM sessions AS held
            WHERE held.queue = tasks.queue AND held.session = tasks.session
                AND held.expires_at > $2
        ), $9::boolean)
    )
ORDER BY rank, visible_at, unit, run, execution, seq, attempt LIMIT $5
FOR UPDATE SKIP LOCKED;

-- name: lease
UPDATE tasks SET worker = $1, expires_at = $2, leased_at = $3, token = t.token
FROM unnest($4::text[], $5::bytea[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bytea[])
    AS t (unit, run, execution, seq, attempt, token)
WHERE tasks.unit = t.unit AND tasks.run = t.run AND tasks.execution = t.execution
    AND tasks.seq = t.seq AND tasks.attempt = t.attempt;

-- name: lock_queue
-- It locks the row until the transaction ends, also if it is there already.
INSERT INTO queues (queue) VALUES ($1)
ON CONFLICT (queue) DO UPDATE SET queue = excluded.queue
RETURNING starts;

-- name: count_keys
SELECT key, count(*) FROM tasks WHERE queue = $1 AND worker IS NOT NULL GROUP BY key;

-- name: write_starts
UPDATE queues SET starts = $2 WHERE queue = $1;

-- name: read_sessions
SELECT session, worker FROM sessions WHERE queue = $1 AND expires_at > $2;

-- name: open_sessions
-- Another worker may have one of them since it was looked for.
INSERT INTO sessions (queue, session, worker, expires_at)
SELECT $1, session, $3, $4 FROM unnest($2::text[]) AS given (session) ORDER BY session
ON CONFLICT (queue, session) DO UPDATE SET
    worker = excluded.worker, expires_at = excluded.expires_at
WHERE sessions.worker = excluded.worker OR sessions.expires_at <= $5
RETURNING session;

-- name: forget_sessions
-- Those that another worker is changing at this moment stay.
DELETE FROM sessions WHERE (queue, session) IN (
    SELECT queue, session FROM sessions WHERE expires_at <= $1 FOR UPDATE SKIP LOCKED
);

-- name: drop_sessions
DELETE FROM sessions USING unnest($1::text[], $2::text[], $3::text[]) AS h (queue, session, worker)
WHERE sessions.queue = h.queue AND sessions.session = h.session AND sessions.worker = h.worker
RETURNING sessions.queue, sessions.session, sessions.worker;

-- name: hold_sessions
UPDATE sessions SET expires_at = h.until
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS h (queue, session, worker, until)
WHERE sessions.queue = h.queue AND sessions.session = h.session AND sessions.worker = h.worker
RETURNING sessions.queue, sessions.session, sessions.worker;

-- name: find_next
SELECT min(visible_at) FROM tasks WHERE queue = $1 AND worker IS NULL AND visible_at > $2;

-- name: give_back
-- It waits for a worker again, until all attempts together have taken too long.
UPDATE tasks SET
    worker = NULL, token = NULL, leased_at = NULL, expires_at = ends_at,
    details = coalesce(r.details, tasks.details)
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[])
    AS r (unit, seq, attempt, token, details)
WHERE tasks.unit = r.unit AND tasks.seq = r.seq AND tasks.attempt = r.attempt
    AND tasks.token = r.token
RETURNING tasks.queue;

-- name: waiting
SELECT given.queue FROM (SELECT DISTINCT unnest($1::text[]) COLLATE "C" AS queue) AS given
WHERE given.queue > $2 AND EXISTS (
    SELECT FROM tasks
    WHERE tasks.queue = given.queue AND tasks.worker IS NULL AND tasks.visible_at <= $3
) ORDER BY given.queue LIMIT $4;

-- name: tasks_of_unit
SELECT
    unit, run, execution, seq, attempt, scope, queue, name, ''::bytea, visible_at, worker, token,
    expires_at, details, tag, rank, key, session, ends_at, leased_at, call
FROM tasks WHERE unit = $1 AND (seq, attempt, run, execution) > ($2, $3, $4, $5)
ORDER BY seq, attempt, run, execution LIMIT $6;

-- name: overdue
SELECT
    unit, run, execution, seq, attempt, scope, queue, name, ''::bytea, visible_at, worker, token,
    expires_at, details, tag, rank, key, session, ends_at, leased_at, call
FROM tasks
WHERE scope = ANY ($1::text[]) AND expires_at <= $2
    AND (expires_at, unit, run, execution, seq, attempt) > ($3, $4, $5, $6, $7, $8)
ORDER BY expires_at, unit, run, execution, seq, attempt LIMIT $9;

-- name: renew
-- A heartbeat without details keeps those of the one before.
UPDATE tasks SET expires_at = r.until, details = coalesce(r.details, tasks.details)
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bigint[], $6::bytea[])
    AS r (unit, seq, attempt, token, until, details)
WHERE tasks.unit = r.unit AND tasks.seq = r.seq AND tasks.attempt = r.attempt
    AND tasks.token = r.token
RETURNING tasks.unit, tasks.seq, tasks.attempt, tasks.token;

-- name: drop_letters
WITH dropped AS (
    DELETE FROM dead_letters WHERE message = ANY ($1::bytea[]) RETURNING 1
)
SELECT count(*) FROM dropped;

-- name: claim
SELECT scope_, epoch_, clean_ FROM claim($1::text[], $2, $3);

-- name: release
SELECT release($1::text[], $2::bigint[], $3::text[]);

-- name: sweep
SELECT removed, buried
FROM sweep($1::text[], $2::bigint[], $3::text[], $4, $5, $6, $7, $8);

-- name: notify
SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS given (payload);
