-- The rows that commits write. The statements run in the order in which they stand here: first the
-- rows of all commits of a part, table by table, and then `deliver`, which puts their messages into
-- inboxes. Rows are removed before others are written, because one part can do both to a unit.

-- name: clear_journal
DELETE FROM journal WHERE unit = ?;

-- name: clear_executions
DELETE FROM executions WHERE unit = ?;

-- name: clear_kv
DELETE FROM kv WHERE unit = ?;

-- name: clear_tasks
DELETE FROM tasks WHERE unit = ?;

-- name: clear_runs
DELETE FROM runs WHERE unit = ?;

-- name: clear_state
DELETE FROM state WHERE unit = ?;

-- name: delete_unit
DELETE FROM units WHERE id = ?;

-- name: delete_answers
-- Before `insert_answer`: the answers of the deletion itself are kept.
DELETE FROM answers WHERE unit = ?;

-- name: delete_tombstone
DELETE FROM tombstones WHERE run = ?;

-- name: delete_attributes
DELETE FROM attributes WHERE unit = ?;

-- name: insert_unit
INSERT INTO units (
    id, scope, kind, type, type_version, run, execution, format, flags, status, reason, wake_at,
    paused, input_digest, parent, parent_unit, custom_status, custom_status_version, attributes,
    result, failure, suspect, journal_events, journal_bytes, created_at, started_at, updated_at,
    closed_at, version, commit_id
)
VALUES (
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
);

-- name: update_hot
-- Setting an indexed column rewrites its indexes even when the value is the same, which costs four
-- times the rest of the update. So there are four updates, and most commits use this one.
UPDATE units SET
    reason = ?, journal_events = ?, journal_bytes = ?, updated_at = ?, version = ?, commit_id =
    ?
WHERE id = ?;

-- name: update_still
-- No indexed column changes.
UPDATE units SET
    kind = ?3, type_version = ?5, run = ?6, execution = ?7, format = ?8, flags = ?9, reason =
    ?11, paused = ?13, input_digest = ?14, parent = ?15, custom_status = ?17,
    custom_status_version = ?18, attributes = ?19, result = ?20, failure = ?21, suspect = ?22,
    journal_events = ?23, journal_bytes = ?24, started_at = ?26, updated_at = ?27, closed_at =
    ?28, version = ?29, commit_id = ?30
WHERE id = ?1;

-- name: update_moving
-- The indexed columns that change now and then.
UPDATE units SET
    kind = ?3, type_version = ?5, run = ?6, execution = ?7, format = ?8, flags = ?9, status =
    ?10, reason = ?11, wake_at = ?12, paused = ?13, input_digest = ?14, parent = ?15,
    custom_status = ?17, custom_status_version = ?18, attributes = ?19, result = ?20, failure =
    ?21, suspect = ?22, journal_events = ?23, journal_bytes = ?24, started_at = ?26, updated_at
    = ?27, closed_at = ?28, version = ?29, commit_id = ?30
WHERE id = ?1;

-- name: update_all
-- For commits that move a unit to another scope, or replace its run.
UPDATE units SET
    scope = ?2, kind = ?3, type = ?4, type_version = ?5, run = ?6, execution = ?7, format = ?8,
    flags = ?9, status = ?10, reason = ?11, wake_at = ?12, paused = ?13, input_digest = ?14,
    parent = ?15, parent_unit = ?16, custom_status = ?17, custom_status_version = ?18,
    attributes = ?19, result = ?20, failure = ?21, suspect = ?22, journal_events = ?23,
    journal_bytes = ?24, created_at = ?25, started_at = ?26, updated_at = ?27, closed_at = ?28,
    version = ?29, commit_id = ?30
WHERE id = ?1;

-- name: move_inbox
-- A sweep and a scan for wakes look at one scope, so waiting messages are where their unit is.
UPDATE inbox SET scope = ?2 WHERE unit = ?1;

-- name: move_tasks
UPDATE tasks SET scope = ?2 WHERE unit = ?1;

-- name: insert_attribute
INSERT INTO attributes (unit, name, value_kind, value, created) VALUES (?, ?, ?, ?, ?);

-- name: drop_run
DELETE FROM runs WHERE unit = ? AND run = ?;

-- name: drop_run_journal
DELETE FROM journal WHERE unit = ? AND run = ?;

-- name: drop_run_executions
DELETE FROM executions WHERE unit = ? AND run = ?;

-- name: drop_run_tasks
DELETE FROM tasks WHERE unit = ? AND run = ?;

-- name: set_run
INSERT INTO runs (
    unit, run, type, execution, first_seq, status, journal_events, journal_bytes, parent, result,
    failure, started_at, closed_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (unit, run) DO UPDATE SET
    type = excluded.type, execution = excluded.execution, first_seq = excluded.first_seq,
    status = excluded.status, journal_events = excluded.journal_events,
    journal_bytes = excluded.journal_bytes, parent = excluded.parent, result = excluded.result,
    failure = excluded.failure, started_at = excluded.started_at, closed_at = excluded.closed_at;

-- name: insert_journal
INSERT INTO journal (execution, first, count, events, run, unit) VALUES (?, ?, ?, ?, ?, ?);

-- name: insert_execution
-- The columns are in the order of the fields of `ExecutionRow`.
INSERT INTO executions (
    execution, type_version, started_at, closed_at, journal_events, run, unit
)
VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: prune_journal
-- `Commit.prune` names executions of the unit's own run.
DELETE FROM journal WHERE unit = ? AND run = x'' AND execution = ?;

-- name: prune_execution
DELETE FROM executions WHERE unit = ? AND run = x'' AND execution = ?;

-- name: set_kv
INSERT INTO kv (unit, key, value, base, execution, updated_at, base_at)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (unit, key) DO UPDATE SET
    value = excluded.value, base = excluded.base, execution = excluded.execution,
    updated_at = excluded.updated_at, base_at = excluded.base_at;

-- name: remove_kv
DELETE FROM kv WHERE unit = ? AND key = ?;

-- name: set_state
INSERT INTO state (unit, part, data, version) VALUES (?, ?, ?, ?)
ON CONFLICT (unit, part) DO UPDATE SET data = excluded.data, version = excluded.version;

-- name: remove_state
DELETE FROM state WHERE unit = ? AND part = ?;

-- name: consume
DELETE FROM inbox WHERE unit = ? AND message = ?;

-- name: delete_messages
-- A start that was not consumed belongs to the next run of the id, and so does all that came behind it.
DELETE FROM inbox
WHERE unit = ?1 AND position < coalesce(
    (SELECT min(position) FROM inbox WHERE unit = ?1 AND kind = 'Start'), 9223372036854775807
);

-- name: insert_answer
-- A message keeps its first answer, which its sender may have got already.
INSERT INTO answers (unit, message, scope, outcome, expires_at, data, failure)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (unit, message) DO NOTHING;

-- name: insert_letter
-- The same message can be refused twice, if its sender repeats it.
INSERT INTO dead_letters (unit, message, scope, kind, body, at, sender, expires_at, reason)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (unit, message) DO UPDATE SET
    scope = excluded.scope, expires_at = excluded.expires_at, reason = excluded.reason;

-- name: drop_task
DELETE FROM tasks
WHERE unit = ? AND run = ? AND execution = ? AND seq = ? AND attempt = ?;

-- name: insert_task
INSERT INTO tasks (
    unit, run, execution, seq, attempt, scope, queue, name, input, visible_at, worker, token,
    expires_at, details, tag, rank, key, session, ends_at, leased_at, call
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_tombstone
INSERT INTO tombstones (run, scope, expires_at) VALUES (?, ?, ?)
ON CONFLICT (run) DO UPDATE SET scope = excluded.scope, expires_at = excluded.expires_at;

-- name: insert_deletion
INSERT INTO deletions (unit, commit_id, scope, expires_at) VALUES (?, ?, ?, ?)
ON CONFLICT (unit) DO UPDATE SET
    commit_id = excluded.commit_id, scope = excluded.scope, expires_at = excluded.expires_at;

-- name: deliver
-- A message is left out if it waits already or was answered, and if it starts a run that has begun
-- or was deleted. It goes to the scope in which its unit is. Without a unit it goes to the scope
-- that it names itself.
INSERT INTO inbox (
    unit, position, message, scope, kind, body, at, visible_at, sender, previous, homeless
)
SELECT ?1, ?11, ?2, coalesce((SELECT scope FROM units WHERE id = ?1), ?3), ?4, ?5, ?6, ?7, ?8, ?9,
    coalesce(?10, NOT EXISTS (SELECT 1 FROM units WHERE id = ?1))
WHERE NOT EXISTS (SELECT 1 FROM answers WHERE unit = ?1 AND message = ?2)
    AND NOT (
        ?4 = 'Start'
        AND (
            EXISTS (SELECT 1 FROM units WHERE id = ?1 AND run = ?2 AND started_at > 0)
            OR EXISTS (SELECT 1 FROM tombstones WHERE run = ?2)
        )
    )
ON CONFLICT (unit, message) DO NOTHING;
