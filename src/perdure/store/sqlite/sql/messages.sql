-- The fate of a message that is posted.

-- name: find_message
SELECT 1 FROM inbox WHERE unit = ? AND message = ?;

-- name: find_answer
SELECT outcome, data, failure FROM answers WHERE unit = ? AND message = ?;

-- name: find_tombstone
SELECT 1 FROM tombstones WHERE run = ?;

-- name: find_unit
SELECT run, status FROM units WHERE id = ?;

-- name: read_starts
SELECT body FROM inbox WHERE unit = ? AND kind = 'Start';

-- name: find_start
SELECT 1 FROM inbox WHERE unit = ? AND kind = 'Start' LIMIT 1;

-- name: count_messages
-- The number is kept by triggers: counting an inbox would cost more than the post.
SELECT messages FROM inboxes WHERE unit = ?;

-- name: take_task
-- The token says whether the lease is still that of the sender.
DELETE FROM tasks
WHERE unit = ? AND execution = ? AND seq = ? AND attempt = ? AND run = ? AND token = ?
RETURNING 1;

-- name: read_last_place
SELECT last FROM places;

-- name: write_last_place
UPDATE places SET last = ?;
