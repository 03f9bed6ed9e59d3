-- Scopes and their owners.

-- name: find_scopes
SELECT scope, epoch, clean FROM scopes WHERE scope IN (SELECT value FROM json_each(?));

-- name: set_scope
INSERT INTO scopes (scope, epoch, node, incarnation, clean) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (scope) DO UPDATE SET
    epoch = excluded.epoch, node = excluded.node, incarnation = excluded.incarnation,
    clean = excluded.clean;

-- name: find_held
-- A fence names the epoch, too: the same incarnation may have claimed the scope again since.
SELECT scope FROM scopes WHERE scope = ? AND epoch = ? AND incarnation = ?;

-- name: release
UPDATE scopes SET node = NULL, incarnation = NULL, clean = 1 WHERE scope = ?;
