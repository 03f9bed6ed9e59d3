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

-- name: shards
SELECT scopes.scope, epoch, node, incarnation,
    coalesce(opened, 0), coalesce(busy, 0), coalesce(due, 0)
FROM scopes LEFT JOIN (
    SELECT scope, count(*) AS opened,
        count(*) FILTER (WHERE wake_at = 0 AND status <> 'suspended') AS busy,
        count(*) FILTER (WHERE wake_at > 0 AND wake_at <= ?1 AND status <> 'suspended') AS due
    FROM units WHERE status IN ('pending', 'running', 'suspended') GROUP BY scope
) AS counted ON counted.scope = scopes.scope
WHERE ?2 IS NULL OR scopes.scope > ?2 ORDER BY scopes.scope LIMIT ?3;

-- name: backlog_due
-- Each scope walks the beginning of its index, so timers of the future cost nothing. CROSS JOIN
-- keeps that order.
SELECT count(*), min(wake_at) FROM (
    SELECT wake_at FROM scopes CROSS JOIN units ON units.scope = scopes.scope
    WHERE wake_at > 0 AND wake_at <= ?1 AND status IN ('pending', 'running', 'suspended')
        AND status <> 'suspended'
    LIMIT ?2
);

-- name: backlog_busy
SELECT count(*), count(*) FILTER (WHERE lives) FROM (
    SELECT incarnation IS NOT NULL
        AND (?1 IS NULL OR incarnation IN (SELECT value FROM json_each(?1))) AS lives
    FROM scopes CROSS JOIN units ON units.scope = scopes.scope
    WHERE wake_at = 0 AND status IN ('pending', 'running', 'suspended')
        AND status <> 'suspended'
    LIMIT ?2
);

-- name: backlog_messages
-- An instance takes a message from a channel if its reason names the channel, and the message does,
-- too. It takes everything else. Instances that are due or busy are counted by that.
SELECT count(*), min(first) FROM (
    SELECT min(max(visible_at, at)) AS first FROM inbox LEFT JOIN units ON units.id = inbox.unit
    WHERE visible_at <= ?1 AND (
        (status IS NULL AND inbox.kind = 'Start')
        OR (status = 'suspended' AND inbox.kind IN ('Resume', 'Retry', 'Terminate', 'Delete'))
        OR (status <> 'suspended' AND inbox.kind <> 'Send')
        OR (
            status = 'running' AND reason GLOB 'message *'
            AND instr(body, CAST(substr(reason, length('message ') + 1) AS BLOB)) > 0
        )
    ) AND (wake_at IS NULL OR wake_at > ?1)
    GROUP BY inbox.unit LIMIT ?2
);
