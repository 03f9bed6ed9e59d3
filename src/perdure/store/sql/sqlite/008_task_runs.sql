-- A task belongs to a run and an execution of its unit: two of them may number their calls alike.

CREATE TABLE run_tasks (
    unit TEXT NOT NULL,
    run BLOB NOT NULL,
    execution INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    scope TEXT NOT NULL,
    queue TEXT NOT NULL,
    name TEXT NOT NULL,
    input BLOB NOT NULL,
    visible_at INTEGER NOT NULL,
    worker TEXT,
    token BLOB,
    expires_at INTEGER,
    details BLOB,
    PRIMARY KEY (unit, run, execution, seq, attempt)
) WITHOUT ROWID;

INSERT INTO run_tasks SELECT unit, run, execution, seq, attempt, scope, queue, name, input, visible_at, worker, token,
    expires_at, details FROM tasks;
DROP TABLE tasks;
ALTER TABLE run_tasks RENAME TO tasks;
CREATE INDEX tasks_waiting ON tasks (queue, visible_at) WHERE worker IS NULL;
CREATE INDEX tasks_leased ON tasks (scope, expires_at) WHERE expires_at IS NOT NULL;
