-- What a move needs beside the statements that are made of the names of tables and columns.

-- name: lock
SELECT pg_try_advisory_lock(hashtextextended($1, 7306));

-- name: read_seal
SELECT value FROM meta WHERE key = $1;

-- name: hold_seal
SELECT value FROM meta WHERE key = $1 FOR SHARE;

-- name: write_seal
INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: drop_seal
DELETE FROM meta WHERE key = $1;

-- name: lock_tables
-- In one order, so that two of them do not wait for each other.
LOCK TABLE
    answers, attributes, dead_letters, deletions, executions, inbox, journal, kv, meta, queues, runs,
    scopes, sessions, state, tasks, tombstones, units
IN SHARE ROW EXCLUSIVE MODE;

-- name: create_function
CREATE FUNCTION refuse_sealed() RETURNS trigger
LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION USING MESSAGE = '{text}', ERRCODE = 'PRDSL'; END $$;

-- name: drop_function
DROP FUNCTION IF EXISTS refuse_sealed();

-- name: let_in
SELECT set_config('perdure.move', $1, true);

-- name: columns
SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum;

-- name: drop_attributes
DELETE FROM attributes WHERE unit = ANY ($1::text[]);

-- name: insert_attributes
INSERT INTO attributes (unit, name, value_kind, text_value, number_value, created)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::smallint[], $4::text[], $5::numeric[], $6::bigint[]
);

-- name: raise_last_place
-- A sequence is not part of the transaction. It only skips places if that is rolled back.
SELECT setval('places', greatest($1::bigint, (SELECT last_value FROM places)));

-- name: forget_scopes
-- An owner without a row is fenced. The scopes of the source come in their place.
DELETE FROM scopes;
