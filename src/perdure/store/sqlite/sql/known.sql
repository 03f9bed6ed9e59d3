-- The rows by which verdicts and flaws are decided.

-- name: read_units
-- Behind the first three the columns stand in the order of `columns.COLD`.
SELECT
    version, commit_id, journal_events, id, scope, type, created_at, parent_unit, status,
    wake_at, kind, type_version, run, execution, format, flags, paused, input_digest, parent,
    custom_status, custom_status_version, attributes, result, failure, suspect, started_at,
    closed_at
FROM units WHERE id IN (SELECT value FROM json_each(?));

-- name: read_scopes
SELECT scope, epoch, incarnation FROM scopes WHERE scope IN (SELECT value FROM json_each(?));

-- name: read_deletions
SELECT unit, commit_id FROM deletions WHERE unit IN (SELECT value FROM json_each(?));

-- name: read_runs
SELECT run, execution, journal_events FROM runs WHERE unit = ?;

-- name: read_ended
SELECT run, execution FROM executions WHERE unit = ?;

-- name: read_tasks
SELECT run, execution, seq, attempt FROM tasks WHERE unit = ?;
