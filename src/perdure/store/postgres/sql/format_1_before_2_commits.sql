-- A batch of commits, decided and written by one call. Each argument has the rows of one table as
-- arrays, and the field `place` of a row says to which commit of the batch it belongs (from 1). An
-- argument is NULL when no commit of the batch writes such rows.

CREATE TYPE commit_rows AS (
    id bytea[], scope text[], epoch bigint[], incarnation text[], unit text[], expect bigint[],
    home text[], deletes boolean[], tombstone_until bigint[], forgotten_at bigint[],
    flawed boolean[], sql boolean[], before_execution bigint[], before_events bigint[]
);
CREATE TYPE unit_rows AS (
    scope text[], kind text[], type text[], type_version text[], run bytea[], execution bigint[],
    format bigint[], flags bigint[], status text[], reason text[], wake_at bigint[],
    paused boolean[], input_digest text[], parent bytea[], parent_unit text[],
    custom_status bytea[], custom_status_version bigint[], attributes bytea[], result bytea[],
    failure bytea[], suspect bigint[], journal_events bigint[], journal_bytes bigint[],
    created_at bigint[], started_at bigint[], updated_at bigint[], closed_at bigint[]
);
CREATE TYPE attribute_rows AS (
    place integer[], name text[], value_kind smallint[], text_value text[], number_value numeric[]
);
CREATE TYPE run_rows AS (
    place integer[], run bytea[], type text[], execution bigint[], first_seq bigint[],
    status text[], journal_events bigint[], journal_bytes bigint[], parent bytea[],
    result bytea[], failure bytea[], started_at bigint[], closed_at bigint[],
    before_execution bigint[], before_events bigint[]
);
CREATE TYPE dropped_run_rows AS (place integer[], run bytea[]);
CREATE TYPE journal_rows AS (
    place integer[], execution bigint[], first bigint[], count bigint[], events bytea[], run bytea[]
);
CREATE TYPE execution_rows AS (
    place integer[], execution bigint[], type_version text[], started_at bigint[],
    closed_at bigint[], journal_events bigint[], run bytea[]
);
CREATE TYPE pruned_rows AS (place integer[], execution bigint[]);
CREATE TYPE kv_rows AS (
    place integer[], key text[], value bytea[], base bytea[], execution bigint[],
    updated_at bigint[], base_at bigint[]
);
CREATE TYPE state_rows AS (place integer[], part text[], data bytea[], version bigint[]);
CREATE TYPE consumed_rows AS (place integer[], message bytea[]);
CREATE TYPE answer_rows AS (
    place integer[], message bytea[], outcome text[], expires_at bigint[], data bytea[],
    failure bytea[]
);
CREATE TYPE letter_rows AS (
    place integer[], unit text[], message bytea[], kind text[], body bytea[], at bigint[],
    sender text[], expires_at bigint[], reason text[]
);
CREATE TYPE dropped_task_rows AS (
    place integer[], run bytea[], execution bigint[], seq bigint[], attempt bigint[]
);
CREATE TYPE task_rows AS (
    place integer[], run bytea[], execution bigint[], seq bigint[], attempt bigint[],
    scope text[], queue text[], name text[], input bytea[], visible_at bigint[], worker text[],
    token bytea[], expires_at bigint[], details bytea[], tag text[], rank bigint[], key text[],
    session text[], ends_at bigint[], leased_at bigint[], call bytea[]
);
CREATE TYPE message_rows AS (
    place integer[], unit text[], message bytea[], scope text[], kind text[], body bytea[],
    at bigint[], visible_at bigint[], sender text[], previous bytea[], replaces boolean[],
    incarnation text[]
);

-- `fates` says what becomes of each commit. 0: it was applied before. -1: fenced. -2: stale.
-- -3: invalid. -4: the store cannot run its statements. Above 0 it is written now, and the bits say
-- how: 1 in any case, 2 its unit is new, 4 its run replaces another, 8 messages and tasks move to
-- another scope, 16 it deletes its unit, 32 its search attributes are written.
--
-- The settings have each statement walk an index from the rows of the batch. A plan is made once per
-- connection, when tables may be empty, and has to stay good when they are large.
CREATE FUNCTION commit_batch(
    commits commit_rows, rows unit_rows, attributes_ attribute_rows, runs_ run_rows,
    runs_dropped dropped_run_rows, journal_ journal_rows, ended execution_rows,
    pruned pruned_rows, kv_ kv_rows, state_ state_rows, consumed consumed_rows,
    answers_ answer_rows, letters letter_rows, tasks_dropped dropped_task_rows,
    tasks_added task_rows, messages message_rows,
    OUT fates integer[], OUT hinted_units text[], OUT hinted_scopes text[]
)
LANGUAGE plpgsql
SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    flawed integer[];
    chosen text[];
    wanted bigint;
    written bigint;
BEGIN
    -- From here on no claim can raise the epochs of these owners. An earlier submission of the same
    -- commits, whose connection was lost, has ended. What follows sees what it left.
    PERFORM lock_fences(commits.incarnation);
    SELECT array_agg(
        CASE
            -- First of all, because a commit that is in the row did happen.
            WHEN u.commit_id = c.id THEN 0
            WHEN u.id IS NULL AND d.commit_id = c.id THEN 0
            WHEN s.epoch IS DISTINCT FROM c.epoch THEN -1
            WHEN s.incarnation IS DISTINCT FROM c.incarnation THEN -1
            WHEN coalesce(u.scope, c.home) <> c.scope THEN -1
            WHEN coalesce(u.version, 0) <> c.expect THEN -2
            WHEN c.flawed THEN -3
            WHEN NOT c.deletes AND NOT follows(
                CASE WHEN u.run = c.run THEN u.execution ELSE 0 END,
                CASE WHEN u.run = c.run THEN u.journal_events ELSE 0 END,
                c.before_execution, c.before_events
            ) THEN -3
            WHEN c.sql THEN -4
            WHEN c.deletes THEN 17
                + CASE WHEN u.id IS NULL THEN 2 ELSE 0 END
                + CASE WHEN u.scope <> c.home THEN 8 ELSE 0 END
            WHEN u.id IS NULL THEN 3
                + CASE WHEN c.new_scope <> c.home THEN 8 ELSE 0 END
                + CASE WHEN c.attributes IS NOT NULL THEN 32 ELSE 0 END
            ELSE 1
                + CASE WHEN u.run <> c.run THEN 4 ELSE 0 END
                + CASE WHEN u.scope <> c.new_scope THEN 8 ELSE 0 END
                -- The rows of the index repeat when the unit was created.
                + CASE
                    WHEN u.attributes IS DISTINCT FROM c.attributes THEN 32
                    WHEN c.attributes IS NOT NULL AND u.created_at <> c.created_at THEN 32
                    ELSE 0
                END
        END
        ORDER BY c.place
    ) INTO fates
    FROM unnest(
        commits.id, commits.scope, commits.epoch, commits.incarnation, commits.unit,
        commits.expect, commits.home, commits.deletes, commits.flawed, commits.sql,
        commits.before_execution, commits.before_events, rows.scope, rows.run, rows.attributes,
        rows.created_at
    ) WITH ORDINALITY AS c (
        id, scope, epoch, incarnation, unit, expect, home, deletes, flawed, sql,
        before_execution, before_events, new_scope, run, attributes, created_at, place
    )
    LEFT JOIN units AS u ON u.id = c.unit
    LEFT JOIN scopes AS s ON s.scope = c.scope
    -- Only a commit that deletes can be one that was applied to a unit that is gone.
    LEFT JOIN deletions AS d ON c.deletes AND d.unit = c.unit;

    -- ------------------------------------------------------------ flaws of what the unit owns

    IF runs_ IS NOT NULL THEN
        SELECT array_agg(r.place) INTO flawed
        FROM unnest(runs_.place, runs_.run, runs_.before_execution, runs_.before_events)
            AS r (place, run, before_execution, before_events)
        LEFT JOIN runs AS stored ON fates[r.place] & 6 = 0
            AND stored.unit = commits.unit[r.place] AND stored.run = r.run
        WHERE fates[r.place] > 0 AND NOT follows(
            coalesce(stored.execution, 0), coalesce(stored.journal_events, 0),
            r.before_execution, r.before_events
        );
        fates := refused(fates, flawed);
    END IF;
    IF ended IS NOT NULL THEN
        SELECT array_agg(e.place) INTO flawed
        FROM unnest(ended.place, ended.run, ended.execution) AS e (place, run, execution)
        JOIN executions AS stored ON stored.unit = commits.unit[e.place]
            AND stored.run = e.run AND stored.execution = e.execution
        WHERE fates[e.place] > 0 AND fates[e.place] & 6 = 0 AND NOT EXISTS (
            SELECT FROM unnest(runs_dropped.place, runs_dropped.run) AS dropped (place, run)
            WHERE dropped.place = e.place AND dropped.run = e.run
        );
        fates := refused(fates, flawed);
    END IF;
    IF tasks_added IS NOT NULL THEN
        SELECT array_agg(t.place) INTO flawed
        FROM unnest(
            tasks_added.place, tasks_added.run, tasks_added.execution, tasks_added.seq,
            tasks_added.attempt
        ) AS t (place, run, execution, seq, attempt)
        JOIN tasks AS stored ON stored.unit = commits.unit[t.place] AND stored.run = t.run
            AND stored.execution = t.execution AND stored.seq = t.seq
            AND stored.attempt = t.attempt
        WHERE fates[t.place] > 0 AND fates[t.place] & 6 = 0
            AND NOT EXISTS (
                SELECT FROM unnest(runs_dropped.place, runs_dropped.run) AS dropped (place, run)
                WHERE dropped.place = t.place AND dropped.run = t.run
            )
            AND NOT EXISTS (
                SELECT FROM unnest(
                    tasks_dropped.place, tasks_dropped.run, tasks_dropped.execution,
                    tasks_dropped.seq, tasks_dropped.attempt
                ) AS dropped (place, run, execution, seq, attempt)
                WHERE dropped.place = t.place AND dropped.run = t.run
                    AND dropped.execution = t.execution AND dropped.seq = t.seq
                    AND dropped.attempt = t.attempt
            );
        fates := refused(fates, flawed);
    END IF;

    -- ------------------------------------------------------------ what goes

    SELECT array_agg(c.unit ORDER BY c.unit) INTO chosen
    FROM unnest(commits.unit, fates) AS c (unit, fate) WHERE c.fate > 0 AND c.fate & 20 > 0;
    IF chosen IS NOT NULL THEN
        -- Before the rows of the inbox: a post that is under way holds the row of its unit, and its
        -- message has to be seen below.
        DELETE FROM units USING unnest(commits.unit, fates) AS c (unit, fate)
        WHERE units.id = c.unit AND c.fate > 0 AND c.fate & 16 > 0;
        DELETE FROM journal WHERE unit = ANY (chosen);
        DELETE FROM executions WHERE unit = ANY (chosen);
        DELETE FROM kv WHERE unit = ANY (chosen);
        DELETE FROM tasks WHERE unit = ANY (chosen);
        DELETE FROM runs WHERE unit = ANY (chosen);
        DELETE FROM state WHERE unit = ANY (chosen);
        -- The answers of the deletion itself are written below, and stay.
        DELETE FROM answers USING unnest(commits.unit, fates) AS c (unit, fate)
        WHERE answers.unit = c.unit AND c.fate > 0 AND c.fate & 16 > 0;
        DELETE FROM tombstones
        USING unnest(rows.run, commits.tombstone_until, fates) AS c (run, until, fate)
        WHERE tombstones.run = c.run AND c.until IS NULL AND c.fate > 0 AND c.fate & 16 > 0;
    END IF;
    SELECT array_agg(c.unit ORDER BY c.unit) INTO chosen
    FROM unnest(commits.unit, fates) AS c (unit, fate)
    WHERE c.fate > 0 AND (c.fate & 16 > 0 OR c.fate & 34 = 32);
    IF chosen IS NOT NULL THEN
        DELETE FROM attributes WHERE unit = ANY (chosen);
    END IF;

    -- ------------------------------------------------------------ units

    SELECT count(*) FILTER (WHERE fate & 2 > 0), count(*) FILTER (WHERE fate & 2 = 0)
    INTO wanted, written
    FROM unnest(fates) AS c (fate) WHERE fate > 0 AND fate & 16 = 0;
    IF written > 0 THEN
        -- A post holds the row of its unit, and must not put a message where the unit was.
        SELECT array_agg(c.unit ORDER BY c.unit) INTO chosen
        FROM unnest(commits.unit, fates) AS c (unit, fate)
        WHERE c.fate > 0 AND c.fate & 8 > 0 AND c.fate & 18 = 0;
        IF chosen IS NOT NULL THEN
            PERFORM FROM units WHERE id = ANY (chosen) ORDER BY id FOR UPDATE;
        END IF;
        PERFORM expect_rows(written, update_units(commits, rows, fates));
    END IF;
    IF wanted > 0 THEN
        INSERT INTO units (
            id, scope, kind, type, type_version, run, execution, format, flags, status, reason,
            wake_at, paused, input_digest, parent, parent_unit, custom_status,
            custom_status_version, attributes, result, failure, suspect, journal_events,
            journal_bytes, created_at, started_at, updated_at, closed_at, version, commit_id
        )
        SELECT
            c.id, c.scope, c.kind, c.type, c.type_version, c.run, c.execution, c.format, c.flags,
            c.status, c.reason, c.wake_at, c.paused, c.input_digest, c.parent, c.parent_unit,
            c.custom_status, c.custom_status_version, c.attributes, c.result, c.failure,
            c.suspect, c.journal_events, c.journal_bytes, c.created_at, c.started_at,
            c.updated_at, c.closed_at, 1, c.commit_id
        FROM unnest(
            commits.unit, rows.scope, rows.kind, rows.type, rows.type_version, rows.run,
            rows.execution, rows.format, rows.flags, rows.status, rows.reason, rows.wake_at,
            rows.paused, rows.input_digest, rows.parent, rows.parent_unit, rows.custom_status,
            rows.custom_status_version, rows.attributes, rows.result, rows.failure, rows.suspect,
            rows.journal_events, rows.journal_bytes, rows.created_at, rows.started_at,
            rows.updated_at, rows.closed_at, commits.id, fates
        ) AS c (
            id, scope, kind, type, type_version, run, execution, format, flags, status, reason,
            wake_at, paused, input_digest, parent, parent_unit, custom_status,
            custom_status_version, attributes, result, failure, suspect, journal_events,
            journal_bytes, created_at, started_at, updated_at, closed_at, commit_id, fate
        )
        WHERE c.fate > 0 AND c.fate & 18 = 2
        ORDER BY c.id
        ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS written = ROW_COUNT;
        PERFORM expect_rows(wanted, written);
    END IF;
    -- A sweep and a scan for wakes look at one scope, so waiting messages are where their unit is.
    -- Without a unit they wait at its home.
    IF EXISTS (SELECT FROM unnest(fates) AS c (fate) WHERE c.fate > 0 AND c.fate & 8 > 0) THEN
        UPDATE inbox SET scope = c.scope
        FROM unnest(commits.unit, rows.scope, fates) AS c (unit, scope, fate)
        WHERE inbox.unit = c.unit AND c.fate > 0 AND c.fate & 24 = 8;
        UPDATE inbox SET scope = c.home
        FROM unnest(commits.unit, commits.home, fates) AS c (unit, home, fate)
        WHERE inbox.unit = c.unit AND c.fate > 0 AND c.fate & 24 = 24;
        UPDATE tasks SET scope = c.scope
        FROM unnest(commits.unit, rows.scope, fates) AS c (unit, scope, fate)
        WHERE tasks.unit = c.unit AND c.fate > 0 AND c.fate & 26 = 8;
    END IF;

    -- ------------------------------------------------------------ what units own

    IF attributes_ IS NOT NULL THEN
        INSERT INTO attributes (unit, name, value_kind, text_value, number_value, created)
        SELECT
            commits.unit[a.place], a.name, a.value_kind, a.text_value, a.number_value,
            rows.created_at[a.place]
        FROM unnest(
            attributes_.place, attributes_.name, attributes_.value_kind, attributes_.text_value,
            attributes_.number_value
        ) AS a (place, name, value_kind, text_value, number_value)
        WHERE fates[a.place] > 0 AND fates[a.place] & 32 > 0;
    END IF;
    IF runs_dropped IS NOT NULL THEN
        DELETE FROM runs USING unnest(runs_dropped.place, runs_dropped.run) AS r (place, run)
        WHERE fates[r.place] > 0 AND runs.unit = commits.unit[r.place] AND runs.run = r.run;
        DELETE FROM journal USING unnest(runs_dropped.place, runs_dropped.run) AS r (place, run)
        WHERE fates[r.place] > 0 AND journal.unit = commits.unit[r.place] AND journal.run = r.run;
        DELETE FROM executions
        USING unnest(runs_dropped.place, runs_dropped.run) AS r (place, run)
        WHERE fates[r.place] > 0
            AND executions.unit = commits.unit[r.place] AND executions.run = r.run;
        DELETE FROM tasks USING unnest(runs_dropped.place, runs_dropped.run) AS r (place, run)
        WHERE fates[r.place] > 0 AND tasks.unit = commits.unit[r.place] AND tasks.run = r.run;
    END IF;
    IF runs_ IS NOT NULL THEN
        INSERT INTO runs (
            unit, run, type, execution, first_seq, status, journal_events, journal_bytes, parent,
            result, failure, started_at, closed_at
        )
        SELECT
            commits.unit[r.place], r.run, r.type, r.execution, r.first_seq, r.status,
            r.journal_events, r.journal_bytes, r.parent, r.result, r.failure, r.started_at,
            r.closed_at
        FROM unnest(
            runs_.place, runs_.run, runs_.type, runs_.execution, runs_.first_seq, runs_.status,
            runs_.journal_events, runs_.journal_bytes, runs_.parent, runs_.result, runs_.failure,
            runs_.started_at, runs_.closed_at
        ) AS r (
            place, run, type, execution, first_seq, status, journal_events, journal_bytes,
            parent, result, failure, started_at, closed_at
        )
        WHERE fates[r.place] > 0
        ON CONFLICT (unit, run) DO UPDATE SET
            type = excluded.type, execution = excluded.execution, first_seq = excluded.first_seq,
            status = excluded.status, journal_events = excluded.journal_events,
            journal_bytes = excluded.journal_bytes, parent = excluded.parent,
            result = excluded.result, failure = excluded.failure,
            started_at = excluded.started_at, closed_at = excluded.closed_at;
    END IF;
    IF journal_ IS NOT NULL THEN
        INSERT INTO journal (unit, run, execution, first, count, events)
        SELECT commits.unit[j.place], j.run, j.execution, j.first, j.count, j.events
        FROM unnest(
            journal_.place, journal_.execution, journal_.first, journal_.count, journal_.events,
            journal_.run
        ) AS j (place, execution, first, count, events, run)
        WHERE fates[j.place] > 0;
    END IF;
    IF ended IS NOT NULL THEN
        INSERT INTO executions (
            unit, run, execution, type_version, started_at, closed_at, journal_events
        )
        SELECT
            commits.unit[e.place], e.run, e.execution, e.type_version, e.started_at, e.closed_at,
            e.journal_events
        FROM unnest(
            ended.place, ended.execution, ended.type_version, ended.started_at, ended.closed_at,
            ended.journal_events, ended.run
        ) AS e (place, execution, type_version, started_at, closed_at, journal_events, run)
        WHERE fates[e.place] > 0;
    END IF;
    IF pruned IS NOT NULL THEN
        -- `Commit.prune` names executions of the unit's own run.
        DELETE FROM journal USING unnest(pruned.place, pruned.execution) AS p (place, execution)
        WHERE fates[p.place] > 0 AND journal.unit = commits.unit[p.place] AND journal.run = ''
            AND journal.execution = p.execution;
        DELETE FROM executions
        USING unnest(pruned.place, pruned.execution) AS p (place, execution)
        WHERE fates[p.place] > 0 AND executions.unit = commits.unit[p.place]
            AND executions.run = '' AND executions.execution = p.execution;
    END IF;
    IF kv_ IS NOT NULL THEN
        DELETE FROM kv
        USING unnest(kv_.place, kv_.key, kv_.value, kv_.base) AS k (place, key, value, base)
        WHERE fates[k.place] > 0 AND kv.unit = commits.unit[k.place] AND kv.key = k.key
            AND k.value IS NULL AND k.base IS NULL;
        INSERT INTO kv (unit, key, value, base, execution, updated_at, base_at)
        SELECT commits.unit[k.place], k.key, k.value, k.base, k.execution, k.updated_at, k.base_at
        FROM unnest(
            kv_.place, kv_.key, kv_.value, kv_.base, kv_.execution, kv_.updated_at, kv_.base_at
        ) AS k (place, key, value, base, execution, updated_at, base_at)
        WHERE fates[k.place] > 0 AND NOT (k.value IS NULL AND k.base IS NULL)
        ON CONFLICT (unit, key) DO UPDATE SET
            value = excluded.value, base = excluded.base, execution = excluded.execution,
            updated_at = excluded.updated_at, base_at = excluded.base_at;
    END IF;
    IF state_ IS NOT NULL THEN
        DELETE FROM state USING unnest(state_.place, state_.part, state_.data) AS s (place, part, data)
        WHERE fates[s.place] > 0 AND state.unit = commits.unit[s.place] AND state.part = s.part
            AND s.data IS NULL;
        INSERT INTO state (unit, part, data, version)
        SELECT commits.unit[s.place], s.part, s.data, s.version
        FROM unnest(state_.place, state_.part, state_.data, state_.version)
            AS s (place, part, data, version)
        WHERE fates[s.place] > 0 AND s.data IS NOT NULL
        ON CONFLICT (unit, part) DO UPDATE SET data = excluded.data, version = excluded.version;
    END IF;

    -- ------------------------------------------------------------ messages that came

    IF consumed IS NOT NULL THEN
        DELETE FROM inbox USING unnest(consumed.place, consumed.message) AS m (place, message)
        WHERE fates[m.place] > 0
            AND inbox.unit = commits.unit[m.place] AND inbox.message = m.message;
    END IF;
    IF EXISTS (SELECT FROM unnest(fates) AS c (fate) WHERE c.fate > 0 AND c.fate & 16 > 0) THEN
        -- A start that was not consumed belongs to the next run of the id, and so does all that
        -- came behind it.
        DELETE FROM inbox USING unnest(commits.unit, fates) AS c (unit, fate)
        WHERE inbox.unit = c.unit AND c.fate > 0 AND c.fate & 16 > 0 AND NOT EXISTS (
            SELECT FROM inbox AS start
            WHERE start.unit = c.unit AND start.kind = 'Start' AND start.position <= inbox.position
        );
        INSERT INTO tombstones (run, scope, expires_at)
        SELECT c.run, c.scope, c.until
        FROM unnest(rows.run, rows.scope, commits.tombstone_until, fates)
            AS c (run, scope, until, fate)
        WHERE c.fate > 0 AND c.fate & 16 > 0 AND c.until IS NOT NULL
        ON CONFLICT (run) DO UPDATE SET scope = excluded.scope, expires_at = excluded.expires_at;
        INSERT INTO deletions (unit, commit_id, scope, expires_at)
        SELECT c.unit, c.id, c.scope, c.until
        FROM unnest(commits.unit, commits.id, rows.scope, commits.forgotten_at, fates)
            AS c (unit, id, scope, until, fate)
        WHERE c.fate > 0 AND c.fate & 16 > 0
        ON CONFLICT (unit) DO UPDATE SET
            commit_id = excluded.commit_id, scope = excluded.scope,
            expires_at = excluded.expires_at;
    END IF;
    IF answers_ IS NOT NULL THEN
        -- A message keeps its first answer, which its sender may have got already.
        INSERT INTO answers (unit, message, scope, outcome, expires_at, data, failure)
        SELECT
            commits.unit[a.place], a.message, rows.scope[a.place], a.outcome, a.expires_at,
            a.data, a.failure
        FROM unnest(
            answers_.place, answers_.message, answers_.outcome, answers_.expires_at,
            answers_.data, answers_.failure
        ) AS a (place, message, outcome, expires_at, data, failure)
        WHERE fates[a.place] > 0
        ON CONFLICT (unit, message) DO NOTHING;
    END IF;
    IF letters IS NOT NULL THEN
        -- The same message can be refused twice, if its sender repeats it.
        INSERT INTO dead_letters (unit, message, scope, kind, body, at, sender, expires_at, reason)
        SELECT
            l.unit, l.message, rows.scope[l.place], l.kind, l.body, l.at, l.sender, l.expires_at,
            l.reason
        FROM unnest(
            letters.place, letters.unit, letters.message, letters.kind, letters.body, letters.at,
            letters.sender, letters.expires_at, letters.reason
        ) AS l (place, unit, message, kind, body, at, sender, expires_at, reason)
        WHERE fates[l.place] > 0
        ON CONFLICT (unit, message) DO UPDATE SET
            scope = excluded.scope, expires_at = excluded.expires_at, reason = excluded.reason;
    END IF;

    -- ------------------------------------------------------------ tasks

    IF tasks_dropped IS NOT NULL THEN
        DELETE FROM tasks USING unnest(
            tasks_dropped.place, tasks_dropped.run, tasks_dropped.execution, tasks_dropped.seq,
            tasks_dropped.attempt
        ) AS t (place, run, execution, seq, attempt)
        WHERE fates[t.place] > 0 AND tasks.unit = commits.unit[t.place] AND tasks.run = t.run
            AND tasks.execution = t.execution AND tasks.seq = t.seq AND tasks.attempt = t.attempt;
    END IF;
    IF tasks_added IS NOT NULL THEN
        INSERT INTO tasks (
            unit, run, execution, seq, attempt, scope, queue, name, input, visible_at, worker,
            token, expires_at, details, tag, rank, key, session, ends_at, leased_at, call
        )
        SELECT
            commits.unit[t.place], t.run, t.execution, t.seq, t.attempt, t.scope, t.queue, t.name,
            t.input, t.visible_at, t.worker, t.token, t.expires_at, t.details, t.tag,
            t.rank, t.key, t.session, t.ends_at, t.leased_at, t.call
        FROM unnest(
            tasks_added.place, tasks_added.run, tasks_added.execution, tasks_added.seq,
            tasks_added.attempt, tasks_added.scope, tasks_added.queue, tasks_added.name,
            tasks_added.input, tasks_added.visible_at, tasks_added.worker, tasks_added.token,
            tasks_added.expires_at, tasks_added.details, tasks_added.tag,
            tasks_added.rank, tasks_added.key, tasks_added.session, tasks_added.ends_at,
            tasks_added.leased_at, tasks_added.call
        ) AS t (
            place, run, execution, seq, attempt, scope, queue, name, input, visible_at, worker,
            token, expires_at, details, tag, rank, key, session, ends_at, leased_at, call
        )
        WHERE fates[t.place] > 0;
    END IF;

    -- ------------------------------------------------------------ messages that go out

    IF messages IS NOT NULL THEN
        -- The row of a unit stays where it is while a message for it is on its way.
        PERFORM FROM units
        WHERE id = ANY (messages.unit) AND NOT id = ANY (commits.unit) ORDER BY id FOR KEY SHARE;
        -- A message is left out if it waits already or was answered, and if it starts a run that has
        -- begun or was deleted. It goes to the scope in which its unit is. Without a unit it goes
        -- to the scope that it names itself. A start is never homeless, because it makes its unit.
        INSERT INTO inbox (
            unit, message, position, scope, kind, body, at, visible_at, sender, previous, homeless,
            replaces
        )
        SELECT
            m.unit, m.message, nextval('places'), coalesce(u.scope, m.scope), m.kind, m.body,
            m.at, m.visible_at, m.sender, m.previous, u.id IS NULL AND m.kind <> 'Start',
            m.replaces
        FROM unnest(
            messages.place, messages.unit, messages.message, messages.scope, messages.kind,
            messages.body, messages.at, messages.visible_at, messages.sender, messages.previous,
            messages.replaces
        ) WITH ORDINALITY AS m (
            place, unit, message, scope, kind, body, at, visible_at, sender, previous, replaces,
            number
        )
        LEFT JOIN units AS u ON u.id = m.unit
        WHERE fates[m.place] > 0
            AND NOT EXISTS (
                SELECT FROM answers WHERE answers.unit = m.unit AND answers.message = m.message
            )
            AND NOT (
                m.kind = 'Start'
                AND (
                    (u.run = m.message AND u.started_at > 0) IS TRUE
                    OR EXISTS (SELECT FROM tombstones WHERE tombstones.run = m.message)
                )
            )
        ORDER BY m.number
        ON CONFLICT (unit, message) DO NOTHING;
        -- A node tells its own units itself.
        SELECT array_agg(h.unit ORDER BY h.number), array_agg(h.scope ORDER BY h.number)
        INTO hinted_units, hinted_scopes
        FROM (
            SELECT m.unit, coalesce(u.scope, m.scope) AS scope, min(m.number) AS number
            FROM unnest(messages.place, messages.unit, messages.scope, messages.incarnation)
                WITH ORDINALITY AS m (place, unit, scope, incarnation, number)
            LEFT JOIN units AS u ON u.id = m.unit
            LEFT JOIN scopes AS s ON s.scope = coalesce(u.scope, m.scope)
            WHERE fates[m.place] > 0 AND s.incarnation IS DISTINCT FROM m.incarnation
            GROUP BY 1, 2
        ) AS h;
    END IF;
END
$$;

-- Whether a journal that goes on behind `execution` and `events` fits to the stored ones. Each
-- execution has a journal of its own, so a first event may stand in a later execution.
CREATE FUNCTION follows(
    stored_execution bigint, stored_events bigint, execution bigint, events bigint
) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN (stored_execution = execution AND stored_events = events)
    OR (events = 0 AND stored_execution < execution);

CREATE FUNCTION refused(fates integer[], flawed integer[]) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    place integer;
BEGIN
    FOREACH place IN ARRAY coalesce(flawed, '{}') LOOP
        fates[place] := -3;
    END LOOP;
    RETURN fates;
END
$$;

-- Another transaction has written a unit of this batch since it was decided. The whole batch is
-- submitted again.
CREATE FUNCTION expect_rows(wanted bigint, written bigint) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF wanted <> written THEN
        RAISE EXCEPTION 'a unit was written by another transaction meanwhile'
            USING ERRCODE = 'serialization_failure';
    END IF;
END
$$;

CREATE FUNCTION update_units(commits commit_rows, rows unit_rows, fates integer[])
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    written bigint;
BEGIN
    UPDATE units SET
        scope = c.scope, kind = c.kind, type = c.type, type_version = c.type_version, run = c.run,
        execution = c.execution, format = c.format, flags = c.flags, status = c.status,
        reason = c.reason, wake_at = c.wake_at, paused = c.paused,
        input_digest = c.input_digest, parent = c.parent, parent_unit = c.parent_unit,
        custom_status = c.custom_status, custom_status_version = c.custom_status_version,
        attributes = c.attributes, result = c.result, failure = c.failure, suspect = c.suspect,
        journal_events = c.journal_events, journal_bytes = c.journal_bytes,
        created_at = c.created_at, started_at = c.started_at, updated_at = c.updated_at,
        closed_at = c.closed_at, version = c.expect + 1, commit_id = c.commit_id
    FROM unnest(
        commits.unit, rows.scope, rows.kind, rows.type, rows.type_version, rows.run,
        rows.execution, rows.format, rows.flags, rows.status, rows.reason, rows.wake_at,
        rows.paused, rows.input_digest, rows.parent, rows.parent_unit, rows.custom_status,
        rows.custom_status_version, rows.attributes, rows.result, rows.failure, rows.suspect,
        rows.journal_events, rows.journal_bytes, rows.created_at, rows.started_at,
        rows.updated_at, rows.closed_at, commits.id, commits.expect, fates
    ) AS c (
        id, scope, kind, type, type_version, run, execution, format, flags, status, reason,
        wake_at, paused, input_digest, parent, parent_unit, custom_status, custom_status_version,
        attributes, result, failure, suspect, journal_events, journal_bytes, created_at,
        started_at, updated_at, closed_at, commit_id, expect, fate
    )
    WHERE units.id = c.id AND units.version = c.expect AND c.fate > 0 AND c.fate & 18 = 0;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END
$$;
