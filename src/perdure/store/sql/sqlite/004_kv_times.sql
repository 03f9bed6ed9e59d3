-- When a key's value was written, and when its base was (ms): a workflow removes what is old.

ALTER TABLE kv ADD COLUMN updated_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE kv ADD COLUMN base_at INTEGER NOT NULL DEFAULT 0;
