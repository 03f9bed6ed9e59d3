-- Counts of all that is in the store. Each is one walk of a table or of its smallest index.

-- name: units_by_status
SELECT status, count(*) FROM units GROUP BY status;

-- name: inbox_count
SELECT count(*) FROM inbox WHERE ?1 IS NULL OR visible_at <= ?1;

-- name: tasks_count
SELECT count(*) FROM tasks WHERE ?1 IS NULL OR visible_at <= ?1;

-- name: answers_count
SELECT count(*) FROM answers;

-- name: tombstones_count
SELECT count(*) FROM tombstones;

-- name: starts_count
-- A start of a child is a message of its parent. Two starts of one id count once.
SELECT count(DISTINCT unit) FROM inbox
WHERE kind = 'Start' AND sender IS NULL AND NOT EXISTS (SELECT 1 FROM units WHERE id = inbox.unit);

-- name: dead_letters_count
SELECT count(*) FROM dead_letters;

-- name: units_total
SELECT count(*), coalesce(sum(journal_events), 0), coalesce(sum(journal_bytes), 0) FROM units;

-- name: executions_total
SELECT count(*), coalesce(sum(journal_events), 0) FROM executions;

-- name: inbox_total
SELECT
    count(*) FILTER (WHERE visible_at <= ?1),
    count(*) FILTER (WHERE visible_at > ?1)
FROM inbox;

-- name: tasks_total
SELECT
    count(*) FILTER (WHERE worker IS NULL AND visible_at <= ?1),
    count(*) FILTER (WHERE worker IS NULL AND visible_at > ?1),
    count(*) FILTER (WHERE worker IS NOT NULL AND expires_at > ?1),
    count(*) FILTER (WHERE worker IS NOT NULL AND expires_at <= ?1)
FROM tasks;

-- name: queues
SELECT queue,
    count(*) FILTER (WHERE worker IS NULL AND visible_at <= ?1),
    count(*) FILTER (WHERE worker IS NULL AND visible_at > ?1),
    count(*) FILTER (WHERE worker IS NOT NULL AND expires_at > ?1),
    count(*) FILTER (WHERE worker IS NOT NULL AND expires_at <= ?1),
    coalesce(?1 - min(visible_at) FILTER (WHERE worker IS NULL AND visible_at <= ?1), 0)
FROM tasks WHERE ?2 IS NULL OR queue > ?2
GROUP BY queue ORDER BY queue LIMIT ?3;
