-- Tasks and their leases, and rows that other calls remove.

-- name: find_waiting
-- Tasks that another worker is taking at this moment are skipped. NULL for the names means all of
-- them. A task without a tag is for every worker.
SELECT
    unit, run, execution, seq, attempt, scope, queue, name, input, visible_at, worker, token,
    expires_at, details, tag
FROM tasks
WHERE queue = $1 AND worker IS NULL AND visible_at <= $2
    AND ($3::text[] IS NULL OR name = ANY ($3))
    AND (tag IS NULL OR tag = ANY ($4::text[]))
ORDER BY visible_at, unit, run, execution, seq, attempt LIMIT $5
FOR UPDATE SKIP LOCKED;

-- name: lease
UPDATE tasks SET worker = $1, expires_at = $2, token = t.token
FROM unnest($3::text[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[])
    AS t (unit, run, execution, seq, attempt, token)
WHERE tasks.unit = t.unit AND tasks.run = t.run AND tasks.execution = t.execution
    AND tasks.seq = t.seq AND tasks.attempt = t.attempt;

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
