-- Messages of clients, workers and other owners, and what has expired.

CREATE TYPE posted_rows AS (
    unit text[], message bytea[], scope text[], kind text[], body bytea[], at bigint[],
    visible_at bigint[], sender text[], previous bytea[], replaces boolean[], run bytea[],
    execution bigint[], seq bigint[], attempt bigint[], token bytea[]
);

-- Puts messages into inboxes, one after the other, and says what became of each.
--
-- A message is put in first and taken out again when it is refused. The index of the inbox makes a
-- second post of the same message wait for the first. A look before would miss a message that is
-- being posted, and one that was posted and consumed between the look and the insert.
CREATE FUNCTION post_batch(
    posted posted_rows, inbox_messages bigint,
    OUT outcome text, OUT answer text, OUT data bytea, OUT failure bytea, OUT scope text
) RETURNS SETOF record
LANGUAGE plpgsql
SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    m record;
    known record;
    recorded record;
    is_new boolean;
BEGIN
    FOR m IN
        SELECT * FROM unnest(
            posted.unit, posted.message, posted.scope, posted.kind, posted.body, posted.at,
            posted.visible_at, posted.sender, posted.previous, posted.replaces, posted.run,
            posted.execution, posted.seq, posted.attempt, posted.token
        ) AS given (
            unit, message, scope, kind, body, at, visible_at, sender, previous, replaces, run,
            execution, seq, attempt, token
        )
    LOOP
        answer := NULL;
        data := NULL;
        failure := NULL;
        -- The row stays where it is until the message is there: its owner deletes or moves it later.
        SELECT units.scope, units.run, units.status INTO known
        FROM units WHERE id = m.unit FOR KEY SHARE;
        scope := coalesce(known.scope, m.scope);
        INSERT INTO inbox (
            unit, message, position, scope, kind, body, at, visible_at, sender, previous, homeless,
            replaces
        )
        VALUES (
            m.unit, m.message, nextval('places'), coalesce(known.scope, m.scope), m.kind, m.body,
            m.at, m.visible_at, m.sender, m.previous, known.scope IS NULL AND m.kind <> 'Start',
            m.replaces
        )
        ON CONFLICT DO NOTHING;
        is_new := FOUND;
        SELECT answers.outcome, answers.data, answers.failure INTO recorded
        FROM answers WHERE unit = m.unit AND message = m.message;
        IF FOUND THEN
            outcome := 'duplicate';
            answer := recorded.outcome;
            data := recorded.data;
            failure := recorded.failure;
        ELSIF NOT is_new THEN
            outcome := 'duplicate';
        ELSIF m.kind = 'Start' THEN
            outcome := 'accepted';
            -- A run has the id of the message that started it.
            IF known.run = m.message
                OR EXISTS (SELECT FROM tombstones WHERE tombstones.run = m.message)
            THEN
                outcome := 'duplicate';
            END IF;
        ELSIF m.kind = 'ActivityDone' THEN
            -- The token says whether the lease is still that of the sender.
            DELETE FROM tasks
            WHERE unit = m.unit AND run = m.run AND execution = m.execution AND seq = m.seq
                AND attempt = m.attempt AND token = m.token;
            outcome := CASE WHEN FOUND THEN 'accepted' ELSE 'lost_lease' END;
        ELSIF known.scope IS NULL AND NOT EXISTS (
            -- Behind a start that waits, a message is for the run that it will make.
            SELECT FROM inbox WHERE unit = m.unit AND kind = 'Start'
        ) THEN
            outcome := 'missing';
        ELSIF known.status IN ('completed', 'failed', 'cancelled')
            AND m.kind NOT IN ('Delete', 'Prune')
            AND NOT EXISTS (
                SELECT FROM inbox WHERE unit = m.unit AND kind = 'Start' AND replaces
            )
        THEN
            outcome := 'missing';
            answer := 'closed';
        ELSIF m.kind IN ('Send', 'Raise') AND inbox_messages < (
            -- One more than may wait is enough to know. The message itself is among them.
            SELECT count(*) FROM (
                SELECT FROM inbox WHERE unit = m.unit LIMIT inbox_messages + 1
            ) AS waiting
        ) THEN
            outcome := 'full';
        ELSE
            outcome := 'accepted';
        END IF;
        IF is_new AND outcome <> 'accepted' THEN
            DELETE FROM inbox WHERE unit = m.unit AND message = m.message;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Removes at most `most` expired rows of the scopes that these fences own, oldest first, and makes
-- dead letters of messages for which no unit came to be.
CREATE FUNCTION sweep(
    scopes_ text[], epochs bigint[], incarnations text[], now_ bigint, most bigint,
    undelivered_ms bigint, dead_letter_ms bigint, reason_ text,
    OUT removed bigint, OUT buried text[]
)
LANGUAGE plpgsql
SET search_path FROM CURRENT
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    mine text[];
    gone bigint;
BEGIN
    PERFORM lock_fences(incarnations);
    SELECT array_agg(name) INTO mine FROM held(scopes_, epochs, incarnations) AS h (name);
    DELETE FROM answers WHERE (unit, message) IN (
        SELECT unit, message FROM answers
        WHERE scope = ANY (mine) AND expires_at <= now_
        ORDER BY expires_at, unit, message LIMIT most
    );
    GET DIAGNOSTICS removed = ROW_COUNT;
    DELETE FROM tombstones WHERE run IN (
        SELECT run FROM tombstones WHERE scope = ANY (mine) AND expires_at <= now_
        ORDER BY expires_at, run LIMIT most - removed
    );
    GET DIAGNOSTICS gone = ROW_COUNT;
    removed := removed + gone;
    DELETE FROM deletions WHERE unit IN (
        SELECT unit FROM deletions WHERE scope = ANY (mine) AND expires_at <= now_
        ORDER BY expires_at, unit LIMIT most - removed
    );
    GET DIAGNOSTICS gone = ROW_COUNT;
    removed := removed + gone;
    DELETE FROM dead_letters WHERE (unit, message) IN (
        SELECT unit, message FROM dead_letters
        WHERE scope = ANY (mine) AND expires_at <= now_
        ORDER BY expires_at, unit, message LIMIT most - removed
    );
    GET DIAGNOSTICS gone = ROW_COUNT;
    removed := removed + gone;
    -- A start that waits may still make the unit. The same message can be buried twice, if its
    -- sender repeats it.
    WITH undelivered AS (
        SELECT greatest(at, visible_at) AS since, unit, message FROM inbox
        WHERE scope = ANY (mine) AND homeless AND at <= now_ - undelivered_ms
            AND greatest(at, visible_at) <= now_ - undelivered_ms
            AND NOT EXISTS (SELECT FROM units WHERE units.id = inbox.unit)
            AND NOT EXISTS (
                SELECT FROM inbox AS other WHERE other.unit = inbox.unit AND other.kind = 'Start'
            )
        ORDER BY since, unit, message LIMIT most - removed
    ), taken AS (
        DELETE FROM inbox USING undelivered
        WHERE inbox.unit = undelivered.unit AND inbox.message = undelivered.message
        RETURNING inbox.unit, inbox.message, scope, kind, body, at, sender, since
    ), letters AS (
        INSERT INTO dead_letters (unit, message, scope, kind, body, at, sender, expires_at, reason)
        SELECT unit, message, scope, kind, body, at, sender, now_ + dead_letter_ms, reason_
        FROM taken
        ON CONFLICT (unit, message) DO UPDATE SET
            expires_at = excluded.expires_at, reason = excluded.reason
    )
    SELECT array_agg(unit ORDER BY since, unit, message) INTO buried FROM taken;
    buried := coalesce(buried, '{}');
    removed := removed + cardinality(buried);
END
$$;
