-- Messages that arrived when their unit did not exist, and may never be delivered: without an index of them, each sweep
-- would have to look at every message that waits. Whether a unit has come into being since is looked up; the default is
-- for messages of older releases, which did not note it.

ALTER TABLE inbox ADD COLUMN homeless INTEGER NOT NULL DEFAULT 1;

CREATE INDEX inbox_homeless ON inbox (scope, at) WHERE homeless;
