-- What a move needs beside the statements that are made of the names of tables and columns.

-- name: read_seal
SELECT value FROM meta WHERE key = ?;

-- name: write_seal
INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: drop_seal
DELETE FROM meta WHERE key = ?;

-- name: columns
SELECT name FROM pragma_table_info(?) ORDER BY cid;

-- name: drop_attributes
DELETE FROM attributes WHERE unit = ?;

-- name: raise_last_place
UPDATE places SET last = max(last, (SELECT coalesce(max(position), 0) FROM inbox));

-- name: forget_scopes
-- An owner without a row is fenced. The scopes of the source come in their place.
DELETE FROM scopes;
