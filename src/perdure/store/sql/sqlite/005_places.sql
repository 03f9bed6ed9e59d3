-- Places of messages count over all inboxes. A place is never used again, so that a reader that has
-- read up to a place misses nothing behind it. `places` holds the last one.

CREATE TABLE places (
    last INTEGER NOT NULL
);

CREATE TABLE placed (
    position INTEGER PRIMARY KEY,
    unit TEXT NOT NULL,
    message BLOB NOT NULL,
    scope TEXT NOT NULL,
    kind TEXT NOT NULL,
    body BLOB NOT NULL,
    at INTEGER NOT NULL,
    visible_at INTEGER NOT NULL,
    sender TEXT,
    previous BLOB,
    homeless INTEGER NOT NULL
);

INSERT INTO placed (unit, message, scope, kind, body, at, visible_at, sender, previous, homeless)
    SELECT unit, message, scope, kind, body, at, visible_at, sender, previous, homeless
    FROM inbox ORDER BY unit, position;
DROP TABLE inbox;
ALTER TABLE placed RENAME TO inbox;
INSERT INTO places (last) SELECT coalesce(max(position), 0) FROM inbox;

-- A row's position is the end of each key: this index gives a unit's messages in order.
CREATE INDEX inbox_unit ON inbox (unit);
CREATE UNIQUE INDEX inbox_message ON inbox (unit, message);
CREATE INDEX inbox_visible ON inbox (scope, visible_at);
CREATE INDEX inbox_homeless ON inbox (scope, at) WHERE homeless;
