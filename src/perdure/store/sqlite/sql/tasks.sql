-- Tasks and their leases, sessions and queues.

-- name: find_waiting
-- The first two arguments are the queue and the time, the next two the names and the tags as JSON.
-- NULL for the names means all of them. A task without a tag is for every worker, unless the sixth
-- says that only tagged ones are wanted. The keys that are full are the seventh, the worker is the
-- eighth, and the ninth says whether it may open sessions.
SELECT
    unit, run, execution, seq, attempt, scope, queue, name, input, visible_at, worker, token,
    expires_at, details, tag, rank, key, session, ends_at, leased_at, call
FROM tasks INDEXED BY tasks_in_line
WHERE queue = ?1 AND worker IS NULL AND visible_at <= ?2
    AND (?3 IS NULL OR name IN (SELECT value FROM json_each(?3)))
    AND ((tag IS NULL AND NOT ?6) OR tag IN (SELECT value FROM json_each(?4)))
    AND (key IS NULL OR key NOT IN (SELECT value FROM json_each(?7)))
    AND (
        session IS NULL
        OR coalesce((
            SELECT held.worker = ?8 FROM sessions AS held
            WHERE held.queue = tasks.queue AND held.session = tasks.session
                AND held.expires_at > ?2
        ), ?9)
    )
ORDER BY rank, visible_at, unit, run, execution, seq, attempt LIMIT ?5;

-- name: lease
UPDATE tasks SET worker = ?, token = ?, expires_at = ?, leased_at = ?
WHERE unit = ? AND run = ? AND execution = ? AND seq = ? AND attempt = ?;

-- name: renew
-- A heartbeat without details keeps those of the one before.
UPDATE tasks SET expires_at = ?, details = coalesce(?, details)
WHERE unit = ? AND seq = ? AND attempt = ? AND token = ?;

-- name: give_back
-- It waits for a worker again, until all attempts together have taken too long.
UPDATE tasks SET
    worker = NULL, token = NULL, leased_at = NULL, expires_at = ends_at,
    details = coalesce(?, details)
WHERE unit = ? AND seq = ? AND attempt = ? AND token = ?
RETURNING queue;

-- name: find_next
SELECT min(visible_at) FROM tasks WHERE queue = ? AND worker IS NULL AND visible_at > ?;

-- name: count_keys
SELECT key, count(*) FROM tasks WHERE queue = ? AND worker IS NOT NULL GROUP BY key;

-- name: read_starts
SELECT starts FROM queues WHERE queue = ?;

-- name: write_starts
INSERT INTO queues (queue, starts) VALUES (?, ?)
ON CONFLICT (queue) DO UPDATE SET starts = excluded.starts;

-- name: read_sessions
SELECT session, worker FROM sessions WHERE queue = ? AND expires_at > ?;

-- name: open_session
-- Another worker may have it since it was looked for.
INSERT INTO sessions (queue, session, worker, expires_at) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (queue, session) DO UPDATE SET
    worker = excluded.worker, expires_at = excluded.expires_at
WHERE sessions.worker = excluded.worker OR sessions.expires_at <= ?5
RETURNING session;

-- name: hold_session
UPDATE sessions SET expires_at = ?4 WHERE queue = ?1 AND session = ?2 AND worker = ?3;

-- name: drop_session
DELETE FROM sessions WHERE queue = ? AND session = ? AND worker = ?;

-- name: forget_sessions
DELETE FROM sessions WHERE expires_at <= ?;

-- name: overdue
-- Each scope walks its index in order, and few of them have anything there.
SELECT
    unit, run, execution, seq, attempt, scope, queue, name, x'', visible_at, worker, token,
    expires_at, details, tag, rank, key, session, ends_at, leased_at, call
FROM (SELECT value AS wanted FROM json_each(?1)) CROSS JOIN tasks ON scope = wanted
WHERE expires_at <= ?2
    AND (expires_at, unit, run, execution, seq, attempt) > (?3, ?4, ?5, ?6, ?7, ?8)
ORDER BY expires_at, unit, run, execution, seq, attempt LIMIT ?9;

-- name: waiting
SELECT value FROM json_each(?1)
WHERE value > ?2 AND EXISTS (
    SELECT 1 FROM tasks WHERE queue = value AND worker IS NULL AND visible_at <= ?3
) ORDER BY value LIMIT ?4;

-- name: tasks_of_unit
SELECT
    unit, run, execution, seq, attempt, scope, queue, name, x'', visible_at, worker, token,
    expires_at, details, tag, rank, key, session, ends_at, leased_at, call
FROM tasks WHERE unit = ? AND (seq, attempt, run, execution) > (?, ?, ?, ?)
ORDER BY seq, attempt, run, execution LIMIT ?;
