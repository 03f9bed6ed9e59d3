-- What a deletion leaves, in two parts, each as small as its purpose allows. A tombstone stays as long as the start of
-- the deleted run may come again; a run has an id of its own, so that is all it needs. A deletion stays as long as its
-- commit may be submitted again.

CREATE TABLE runs_deleted (
    run BLOB PRIMARY KEY,
    scope TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;

INSERT OR IGNORE INTO runs_deleted (run, scope, expires_at)
    SELECT run, scope, expires_at FROM tombstones WHERE run <> x'';
DROP TABLE tombstones;
ALTER TABLE runs_deleted RENAME TO tombstones;
CREATE INDEX tombstones_expiry ON tombstones (scope, expires_at);

CREATE TABLE deletions (
    unit TEXT PRIMARY KEY,
    commit_id BLOB NOT NULL,
    scope TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX deletions_expiry ON deletions (scope, expires_at);
