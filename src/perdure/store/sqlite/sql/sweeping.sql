-- Rows that have expired. `undelivered` finds messages for which no unit came to be, and `bury`
-- makes them dead letters.

-- name: find_answers
SELECT expires_at, unit, message FROM answers WHERE scope = :scope AND expires_at <= :at
ORDER BY expires_at, unit, message LIMIT :limit;

-- name: remove_answers
DELETE FROM answers WHERE unit = ? AND message = ?;

-- name: find_tombstones
SELECT expires_at, run FROM tombstones WHERE scope = :scope AND expires_at <= :at
ORDER BY expires_at, run LIMIT :limit;

-- name: remove_tombstones
DELETE FROM tombstones WHERE run = ?;

-- name: find_deletions
SELECT expires_at, unit FROM deletions WHERE scope = :scope AND expires_at <= :at
ORDER BY expires_at, unit LIMIT :limit;

-- name: remove_deletions
DELETE FROM deletions WHERE unit = ?;

-- name: find_dead_letters
SELECT expires_at, unit, message FROM dead_letters WHERE scope = :scope AND expires_at <= :at
ORDER BY expires_at, unit, message LIMIT :limit;

-- name: remove_dead_letters
DELETE FROM dead_letters WHERE unit = ? AND message = ?;

-- name: undelivered
-- `at <= :at` lets SQLite walk the index, whose second column is not the time that counts. A start
-- that waits may still make the unit.
SELECT max(at, visible_at) AS since, unit, message FROM inbox INDEXED BY inbox_homeless
WHERE scope = :scope AND homeless AND at <= :at AND since <= :at
    AND NOT EXISTS (SELECT 1 FROM units WHERE id = inbox.unit)
    AND NOT EXISTS (
        SELECT 1 FROM inbox AS other WHERE other.unit = inbox.unit AND other.kind = 'Start'
    )
ORDER BY 1, 2, 3 LIMIT :limit;

-- name: bury
-- The same message can be buried twice, if its sender repeats it.
INSERT INTO dead_letters (unit, message, scope, kind, body, at, sender, expires_at, reason)
SELECT unit, message, scope, kind, body, at, sender, ?3, ?4
FROM inbox WHERE unit = ?1 AND message = ?2
ON CONFLICT (unit, message) DO UPDATE SET
    expires_at = excluded.expires_at, reason = excluded.reason;

-- name: drop_letter
DELETE FROM dead_letters WHERE message = ?;

-- name: drop_message
DELETE FROM inbox WHERE unit = ? AND message = ?;
