-- Search attributes, one row for each value (each text of a list): what a list can be filtered by. The values
-- themselves stand in `units`; these rows are written when they change. `value_kind`: 1 text, 2 number, 3 truth, 4 time
-- (microseconds). `created` repeats the unit's `created_at`, so that the index gives the newest first.

CREATE TABLE attributes (
    unit TEXT NOT NULL,
    name TEXT NOT NULL,
    value_kind INTEGER NOT NULL,
    value NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (unit, name, value_kind, value)
) WITHOUT ROWID;

CREATE INDEX attributes_value ON attributes (name, value_kind, value, created, unit);

UPDATE meta SET value = '2' WHERE key = 'format';
