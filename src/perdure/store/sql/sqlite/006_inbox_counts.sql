-- How many messages wait for a unit, so that a post need not count them. Triggers keep the number: whatever puts a
-- message in or takes one out, it is right.

CREATE TABLE inboxes (
    unit TEXT PRIMARY KEY,
    messages INTEGER NOT NULL
) WITHOUT ROWID;

INSERT INTO inboxes (unit, messages) SELECT unit, count(*) FROM inbox GROUP BY unit;

CREATE TRIGGER inbox_added AFTER INSERT ON inbox BEGIN
    INSERT INTO inboxes (unit, messages) VALUES (new.unit, 1)
        ON CONFLICT (unit) DO UPDATE SET messages = messages + 1;
END;

CREATE TRIGGER inbox_removed AFTER DELETE ON inbox BEGIN
    UPDATE inboxes SET messages = messages - 1 WHERE unit = old.unit;
    DELETE FROM inboxes WHERE unit = old.unit AND messages = 0;
END;

-- Whether a start waits for a unit, without a look at everything else that does.
CREATE INDEX inbox_start ON inbox (unit) WHERE kind = 'Start';
