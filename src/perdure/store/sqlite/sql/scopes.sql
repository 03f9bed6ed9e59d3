-- Scopes and their owners.

-- name: find_scopes
SELECT scope, epoch, clean FROM scopes WHERE scope IN (SELECT value FROM json_each(?));

-- name: set_scope
INSERT INTO scopes (scope, epoch, node, incarnation, clean) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (scope) DO UPDATE SET
    epoch = excluded.epoch, node = excluded.node, incarnation = excluded.incarnation,
    clean = excluded.clean;

-- name: find_owners
SELECT scope, epoch, incarnation FROM scopes
WHERE scope IN (SELECT value FROM json_each(?)) AND incarnation IS NOT NULL;

-- name: release
UPDATE scopes SET node = NULL, incarnation = NULL, clean = 1 WHERE scope = ?;
