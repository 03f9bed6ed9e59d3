-- Tasks and their leases.

-- name: find_waiting
-- The first two arguments are the queue and the time, the next two the names and the tags as JSON.
-- NULL for the names means all of them. A task without a tag is for every worker.
SELECT
    unit, run, execution, seq, attempt, scope, queue, name, input, visible_at, worker, token,
    expires_at, details, tag
FROM tasks
WHERE queue = ?1 AND worker IS NULL AND visible_at <= ?2
    AND (?3 IS NULL OR name IN (SELECT value FROM json_each(?3)))
    AND (tag IS NULL OR tag IN (SELECT value FROM json_each(?4)))
ORDER BY visible_at, unit, run, execution, seq, attempt LIMIT ?5;

-- name: lease
UPDATE tasks SET worker = ?, token = ?, expires_at = ?
WHERE unit = ? AND run = ? AND execution = ? AND seq = ? AND attempt = ?;

-- name: renew
-- A heartbeat without details keeps those of the one before.
UPDATE tasks SET expires_at = ?, details = coalesce(?, details)
WHERE unit = ? AND seq = ? AND attempt = ? AND token = ?;
