-- The caller's own transaction: what it publishes or starts is staged, and moved into the log as it commits. It may stay
-- open for minutes, so until then it touches these two tables and nothing else: no position is drawn, no lock of the
-- log's is taken. Neither table holds a committed row, so neither needs the write-ahead log.

create unlogged table perdure.staged (
    xact xid8 not null default pg_current_xact_id(),
    number bigint generated always as identity,
    stream uuid not null,
    bytes integer not null,
    ids uuid[] not null,
    types text[] not null,
    schema_versions smallint[] not null,
    data text[] not null,
    metadata text[] not null,
    payloads bytea[] not null,
    companion json,
    primary key (xact, number),
    constraint staged_stream unique (xact, stream)
);
comment on table perdure.staged is
    'What open transactions will append as they commit: new streams, and (with no event) rows of the inbox.';
comment on column perdure.staged.bytes is 'How much it is, so that what is moved together has a limit.';

create unlogged table perdure.staging (
    xact xid8 not null default pg_current_xact_id(),
    step smallint not null,
    primary key (xact, step)
);
comment on table perdure.staging is 'Which open transactions have something staged; the trigger of these rows moves it.';

alter table perdure.staged set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000);
alter table perdure.staging set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- What is refused is refused with a sentence; Python's faces know it by its code.
create function perdure.refuse(sentence text) returns void language plpgsql as $$
begin
    if sentence is not null then
        raise exception '%', sentence using errcode = 'PD020';
    end if;
end $$;

-- Whether two first events of a stream mean the same. What was computed (times, digests) may differ.
create function perdure.same_content(
    type text, data text, payload bytea, other_type text, other_data text, other_payload bytea
) returns boolean language sql immutable as $$
    select type = other_type and payload is not distinct from other_payload and (
        select bool_and((data::json ->> name) is not distinct from (other_data::json ->> name))
        from unnest(array['name', 'run', 'workflow_id', 'event']) name)
$$;

create function perdure.refuse_other_content(stream uuid, type text, data text) returns void language sql as $$
    select perdure.refuse(case type
        when 'EventPublished' then format('event %s was published before with other content; choose another id', stream)
        else format('run %s was started before with another input, event or key; choose another run id',
                    coalesce(data::json ->> 'run', stream::text)) end)
$$;

-- The events that begin one stream, for as long as this transaction is open. The same again is nothing new.
-- Under somebody's long transaction dead rows of others lie in these tables in any number: they must not be scanned,
-- however small the tables were when this was planned.
create function perdure.stage_row(
    stream uuid, ids uuid[], types text[], schema_versions smallint[], data text[], metadata text[], payloads bytea[],
    companion json
) returns void language plpgsql set enable_seqscan = off as $$
#variable_conflict use_column
declare
    size integer := coalesce((select sum(octet_length(payload)) from unnest(stage_row.payloads) payload), 0);
    other perdure.staged;
begin
    insert into perdure.staged (stream, bytes, ids, types, schema_versions, data, metadata, payloads, companion)
    values (stage_row.stream, size, stage_row.ids, stage_row.types, stage_row.schema_versions, stage_row.data,
            stage_row.metadata, stage_row.payloads, stage_row.companion)
    on conflict on constraint staged_stream do nothing;
    if not found then
        select * into other from perdure.staged s where s.xact = pg_current_xact_id() and s.stream = stage_row.stream;
        if not perdure.same_content(other.types[1], other.data[1], other.payloads[1],
                                    stage_row.types[1], stage_row.data[1], stage_row.payloads[1]) then
            perform perdure.refuse_other_content(stage_row.stream, stage_row.types[1], stage_row.data[1]);
        end if;
    end if;
    if not exists (select from perdure.staging t where t.xact = pg_current_xact_id() and t.step = 1) then
        -- The caller may have set all constraints to immediate.
        set constraints perdure.staging_moves deferred;
        insert into perdure.staging (step) values (1);
    end if;
end $$;

-- The same from JSON: an array of {id, type, schema_version, data, metadata, payload}, the last three as texts.
create function perdure.stage(stream uuid, events json, companion json) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select perdure.stage_row(
        stream, array_agg(coalesce(e.id, gen_random_uuid()) order by n), array_agg(e.type order by n),
        array_agg(e.schema_version order by n), array_agg(e.data order by n), array_agg(e.metadata order by n),
        array_agg(convert_to(e.payload, 'UTF8') order by n), companion)
    from rows from (json_to_recordset(events) as (id uuid, type text, schema_version smallint, data text, metadata text,
                                                  payload text)) with ordinality
        as e(id, type, schema_version, data, metadata, payload, n)
$$;

-- Into the log, at COMMIT and only then. Postgres fires deferred triggers at COMMIT, but also when somebody sets all
-- constraints to immediate, as Django does to check its own; then positions would be drawn and everybody who reads the
-- log would wait for this transaction. So the first step only looks whether this is COMMIT: a row inserted now fires
-- its trigger within its own statement where it is not. Where it is, that row's trigger comes last of all, behind
-- whatever else the caller has deferred, and moves everything.
create function perdure.move_at_commit() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
    if current_setting('staging.probing', true) = 'on' then
        perform set_config('staging.probing', 'immediate', true);
        return null;
    end if;
    if new.step = 2 then
        perform perdure.move_staged();
        -- As a statement of this transaction it also keeps it from being prepared: the log would wait for that.
        perform pg_notify(tg_table_schema, '');
        return null;
    end if;
    delete from perdure.staging t where t.xact = new.xact and t.step = 1;
    perform set_config('staging.probing', 'on', true);
    insert into perdure.staging (xact, step) values (new.xact, 2) on conflict do nothing;
    if current_setting('staging.probing') = 'immediate' then
        delete from perdure.staging t where t.xact = new.xact;
        set constraints perdure.staging_moves deferred;
        insert into perdure.staging (xact, step) values (new.xact, 1);
    end if;
    perform set_config('staging.probing', '', true);
    return null;
end $$;

create constraint trigger staging_moves after insert on perdure.staging deferrable initially deferred
    for each row execute function perdure.move_at_commit();

-- Always: a session with session_replication_role = replica loses nothing either.
alter table perdure.staging enable always trigger staging_moves;

-- Everything this transaction has staged, in its order, so much at a time.
create function perdure.move_staged() returns void language plpgsql set enable_seqscan = off as $$
declare
    most_events constant integer := 1000;
    most_bytes constant integer := 64 * 1024 * 1024;
    staged record;
    first bigint;
    last bigint;
    events bigint := 0;
    bytes bigint := 0;
begin
    for staged in
        select s.number, s.bytes, cardinality(s.types) as events from perdure.staged s
        where s.xact = pg_current_xact_id() order by s.number
    loop
        if first is not null and (events + staged.events > most_events or bytes + staged.bytes > most_bytes) then
            perform perdure.append_staged(first, last);
            first := null;
            events := 0;
            bytes := 0;
        end if;
        first := coalesce(first, staged.number);
        last := staged.number;
        events := events + staged.events;
        bytes := bytes + staged.bytes;
    end loop;
    if first is not null then
        perform perdure.append_staged(first, last);
    end if;
    delete from perdure.staged s where s.xact = pg_current_xact_id();
    delete from perdure.staging t where t.xact = pg_current_xact_id();
end $$;

create function perdure.append_staged(first bigint, last bigint) returns void
language plpgsql set enable_seqscan = off as $$
declare
    moment timestamptz := clock_timestamp();
    place integer := 0;
    staged record;
    salt bytea;
    digest bytea;
    previous bytea;
    numbers bigint[] := '{}';
    streams uuid[] := '{}';
    appends integer[] := '{}';
    versions integer[] := '{}';
    ids uuid[] := '{}';
    types text[] := '{}';
    schema_versions smallint[] := '{}';
    data text[] := '{}';
    metadata text[] := '{}';
    payloads bytea[] := '{}';
    salts bytea[] := '{}';
    digests bytea[] := '{}';
    hashes bytea[] := '{}';
begin
    for staged in
        select s.number, s.stream, e.* from perdure.staged s
        cross join lateral unnest(s.ids, s.types, s.schema_versions, s.data, s.metadata, s.payloads) with ordinality
            as e(id, type, schema_version, data, metadata, payload, version)
        where s.xact = pg_current_xact_id() and s.number between append_staged.first and append_staged.last
        order by s.number, e.version
    loop
        if staged.version = 1 then
            place := place + 1;
            previous := null;
            numbers := array_append(numbers, staged.number);
            streams := array_append(streams, staged.stream);
        end if;
        salt := case when staged.payload is not null then uuid_send(gen_random_uuid()) end;
        digest := case when staged.payload is not null then perdure.payload_digest_v1(salt, staged.payload) end;
        previous := perdure.event_hash_v1(previous, staged.stream, staged.version::integer, staged.id, staged.type,
                                          staged.schema_version, moment, staged.data, staged.metadata, digest);
        appends := array_append(appends, place);
        versions := array_append(versions, staged.version::integer);
        ids := array_append(ids, staged.id);
        types := array_append(types, staged.type);
        schema_versions := array_append(schema_versions, staged.schema_version);
        data := array_append(data, staged.data);
        metadata := array_append(metadata, staged.metadata);
        payloads := array_append(payloads, staged.payload);
        salts := array_append(salts, salt);
        digests := array_append(digests, digest);
        hashes := array_append(hashes, previous);
    end loop;
    if place > 0 then
        perform perdure.refuse_others(numbers, perdure.append_or_find(
            perdure.staged_work(numbers), moment, streams, appends, versions, ids, types, schema_versions, data,
            metadata, payloads, salts, digests, hashes));
    end if;
    insert into perdure.inbox (run, shard, kind, detail)
    select c.run, get_byte(uuid_send(c.run), 15) % 64, c.kind, c.detail
    from perdure.staged s cross join lateral json_to_record(s.companion) c(run uuid, kind text, detail json)
    where s.xact = pg_current_xact_id() and s.number between append_staged.first and append_staged.last
        and cardinality(s.types) = 0
    order by s.number;
end $$;

-- The rows of the working set that go with staged streams, each with the number of its append.
create function perdure.staged_work(numbers bigint[]) returns json language sql as $$
    select json_object_agg(w.name, w.rows) from (
        select t.key as name, json_agg(r.value::jsonb || jsonb_build_object('a', n.place) order by n.place) as rows
        from unnest(numbers) with ordinality n(number, place)
        join perdure.staged s on s.xact = pg_current_xact_id() and s.number = n.number
        cross join lateral json_each(s.companion) t
        cross join lateral json_array_elements(t.value) r
        group by t.key) w
$$;

-- append_with_work for streams that are new; the numbers of those that are not. One that somebody else began at the
-- same moment is found when the heads are looked up again, unless this transaction's snapshot is older than that.
create function perdure.append_or_find(
    companion json, moment timestamptz, streams uuid[], appends integer[], versions integer[], ids uuid[], types text[],
    schema_versions smallint[], data text[], metadata text[], payloads bytea[], salts bytea[], digests bytea[],
    hashes bytea[]
) returns integer[] language plpgsql as $$
declare
    broken text;
    rows text;
    lost integer[];
begin
    loop
        begin
            select a.lost into lost from perdure.append_with_work(
                null, 0, companion, moment, true, streams, array_fill(0, array[cardinality(streams)]),
                array_fill(null::bytea, array[cardinality(streams)]), null, appends, versions, ids, types,
                schema_versions, data, metadata, payloads, salts, digests, hashes) a;
            return lost;
        exception when unique_violation then
            get stacked diagnostics broken = constraint_name, rows = pg_exception_detail;
            if broken = 'open_runs_key' then
                raise exception 'a run with this key is open; publish an event to it'
                    using errcode = 'unique_violation', constraint = broken, detail = rows;
            elsif broken <> 'events_stream_version' then
                raise;
            elsif current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
                raise exception 'what this transaction publishes or starts was recorded by another meanwhile; repeat it'
                    using errcode = 'serialization_failure', detail = rows;
            end if;
        end;
    end loop;
end $$;

create function perdure.refuse_others(numbers bigint[], lost integer[]) returns void language plpgsql as $$
declare
    other record;
begin
    if lost is null then
        return;
    end if;
    -- A stream that has no first event any more was archived.
    select s.stream, s.types[1] as type, s.data[1] as data, e.stream is null as archived,
           e.payload_digest is not null and coalesce(e.payload, p.payload) is null as erased into other
    from unnest(lost) n(place)
    join perdure.staged s on s.xact = pg_current_xact_id() and s.number = numbers[n.place]
    left join perdure.events e on e.stream = s.stream and e.version = 1
    left join perdure.payloads p on p.stream = e.stream and p.version = 1
    where e.stream is null or not perdure.same_content(s.types[1], s.data[1], s.payloads[1],
                                   e.type, e.data::text, coalesce(e.payload, p.payload))
    order by n.place limit 1;
    if not found then
        return;
    elsif other.archived or other.erased then
        perform perdure.refuse(format('the id %s was used before, and %s since; choose another',
                                      coalesce(other.data::json ->> 'run', other.stream::text),
                                      case when other.archived then 'archived' else 'erased' end));
    end if;
    perform perdure.refuse_other_content(other.stream, other.type, other.data);
end $$;

-- What was not started by an event or by a command of a node's: operators' commands carry their reason.
alter table perdure.inbox add column detail json;
comment on column perdure.inbox.detail is 'What belongs to a command: the reason of a cancel.';

-- The door, in SQL: what Python's refuses, this refuses too, so that every node reads what was written.
create function perdure.wrong_event_name(name text) returns text language sql immutable as $$
    select case
        when coalesce(name, '') = '' then 'an event''s name is not empty'
        when length(name) > 256 then format('an event''s name has at most 256 characters, not %s', length(name))
        when name ~ '[\u0001-\u001f\u007f-\u009f]' then 'an event''s name has no control characters'
    end
$$;

create function perdure.wrong_key(key text) returns text language sql immutable as $$
    select case when length(key) > 256 or key ~ '[\u0001-\u001f\u007f-\u009f]'
        then format('a key is at most 256 printable characters, not %L', left(key, 40)) end
$$;

create function perdure.wrong_json(written text) returns text language plpgsql immutable as $$
declare
    most_bytes constant integer := 16 * 1024 * 1024;
    greatest_double constant numeric := 1.7976931348623158e308;
    strings constant text := '"(?:[^"\\]|\\.)*"';
    bare text;
    single text;
    parsed jsonb;
    number text;
begin
    if octet_length(written) > most_bytes then
        return format('the value takes %s bytes as JSON, more than the limit of %s; store it elsewhere and pass a '
            'reference', octet_length(written), most_bytes);
    end if;
    begin
        parsed := written::jsonb;
        single := regexp_replace(parsed::text, strings, '', 'g');
    exception
        when untranslatable_character then return 'U+0000 cannot be kept by Postgres; remove it or encode the bytes as base64';
        when numeric_value_out_of_range then return 'a number is beyond a double; pass it as a string';
        when invalid_text_representation then return 'half a surrogate pair (\uD800 to \uDFFF) is not text';
    end;
    bare := regexp_replace(written, strings, '', 'g');
    -- What was parsed has each key once, and a colon for each.
    if length(translate(bare, ':', '')) - length(bare)
        <> length(translate(single, ':', '')) - length(single) then
        return 'a key stands twice in one object';
    end if;
    if bare ~ '\d{19}|[eE]\+?\d{3}' then
        for number in select m[1] from regexp_matches(bare, '(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)', 'g') m loop
            if number !~ '[.eE]' and number::numeric not between -9223372036854775808 and 18446744073709551615 then
                return format('the integer %s is beyond 64 bits; pass it as a string', left(number, 24));
            elsif abs(number::numeric) >= greatest_double then
                return format('the number %s is beyond a double; pass it as a string', left(number, 24));
            end if;
        end loop;
    end if;
    if jsonb_path_exists(parsed, 'strict $.**{254 to last} ? (@.type() == "object" || @.type() == "array")') then
        return 'the value is nested more than 254 deep';
    end if;
    return null;
end $$;

-- An event whose data and payload are put together of texts that are JSON already, and so stay as they were written.
create function perdure.stage_fact(
    stream uuid, type text, schema_version smallint, data text, key text, payload text
) returns void language sql as $$
    select perdure.stage_row(
        stream, array[stream], array[type], array[schema_version], array[data], array['{}'],
        array[convert_to('{' || coalesce('"key":' || to_json(key) || ',', '') || '"payload":' || payload || '}', 'UTF8')],
        null)
$$;

create function perdure.optional(name text, value text) returns text language sql immutable as $$
    select case when value is null then '' else ',"' || name || '":' || to_json(value) end
$$;

-- For every language: publish an event, as part of whatever transaction this is called in.
create function perdure.publish(
    name text, payload json default null, key text default null, id uuid default gen_random_uuid(),
    run uuid default null
) returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    event uuid := coalesce(publish.id, gen_random_uuid());
    written text := coalesce(btrim(publish.payload::text, E' \t\n\r'), 'null');
begin
    perform perdure.refuse(coalesce(perdure.wrong_event_name(publish.name), perdure.wrong_key(publish.key),
                                    perdure.wrong_json(written)));
    if publish.name = any (array[
        'task_added', 'task_cancelled', 'task_compensated', 'task_completed', 'task_failed', 'task_interrupted',
        'task_scheduled', 'task_skipped', 'task_started', 'task_timed_out', 'run_cancel_requested', 'run_cancelled',
        'run_completed', 'run_failed', 'run_migrated', 'run_paused', 'run_resumed', 'run_rewound', 'run_started',
        'run_timed_out']) then
        perform perdure.refuse(format('%L is one of the engine''s own event names; choose another', publish.name));
    end if;
    perform perdure.stage_fact(
        event, 'EventPublished', 2::smallint,
        '{"name":' || to_json(publish.name) || perdure.optional('run', publish.run::text) || '}',
        publish.key, written);
    return event;
end $$;
comment on function perdure.publish is
    'Publish an event as this transaction commits. The same id again, with equal content, is nothing new.';

-- The stream in which a run is asked for, so that asking again finds it. A UUID of version 8.
create function perdure.start_stream(run uuid) returns uuid language sql immutable as $$
    select encode(set_byte(set_byte(h.bytes, 6, get_byte(h.bytes, 6) & 15 | 128), 8, get_byte(h.bytes, 8) & 63 | 128),
                  'hex')::uuid
    from (select substr(sha256(convert_to('perdure-start-v1', 'UTF8') || uuid_send(run)), 1, 16)) h(bytes)
$$;

-- Ask for a run. What may start it is not known in SQL: a node decides, at this request's place in the log.
create function perdure.start(
    workflow text, input json default '{}', event text default null, key text default null,
    run uuid default gen_random_uuid()
) returns uuid language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    asked uuid := coalesce(start.run, gen_random_uuid());
    written text := coalesce(btrim(start.input::text, E' \t\n\r'), '{}');
begin
    if coalesce(length(start.workflow), 0) not between 1 and 128 or start.workflow !~ '^[A-Za-z_][A-Za-z0-9_.-]*$' then
        perform perdure.refuse(format('a workflow_id is made of at most 128 ASCII letters, digits, `_`, `.` and `-`, a '
            'letter or `_` first, not %L', left(start.workflow, 40)));
    end if;
    perform perdure.refuse(coalesce(
        case when start.event is not null then perdure.wrong_event_name(start.event) end, perdure.wrong_key(start.key),
        perdure.wrong_json(written)));
    perform perdure.stage_fact(
        perdure.start_stream(asked), 'StartRequested', 1::smallint,
        '{"workflow_id":' || to_json(start.workflow) || ',"run":' || to_json(asked)
            || perdure.optional('event', start.event) || '}',
        start.key, written);
    return asked;
end $$;
comment on function perdure.start is
    'Ask for a run as this transaction commits. The same run again, with equal content, is nothing new.';

create function perdure.command(run uuid, command text, reason text default '') returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if command.run is null then
        perform perdure.refuse('a command names the run it is for');
    elsif command.command is distinct from 'cancel' then
        perform perdure.refuse(format('there is no command %L; there is cancel', command.command));
    elsif length(command.reason) > 1000 then
        perform perdure.refuse(format('a reason has at most 1000 characters, not %s', length(command.reason)));
    end if;
    perform perdure.stage_row(
        gen_random_uuid(), '{}', '{}', '{}', '{}', '{}', '{}',
        json_build_object('run', command.run, 'kind', command.command,
                          'detail', json_build_object('reason', coalesce(command.reason, ''))));
end $$;
comment on function perdure.command is 'Cancel a run as this transaction commits; one that has ended is left as it is.';

-- Nobody but the owner may call any of these until the owner grants it. A role that publishes in SQL needs USAGE on the
-- schema and EXECUTE on publish, start or command; the rest runs with the owner's rights.
revoke execute on function
    perdure.refuse, perdure.same_content, perdure.refuse_other_content, perdure.stage_row, perdure.stage,
    perdure.move_at_commit, perdure.move_staged, perdure.append_staged, perdure.staged_work, perdure.append_or_find,
    perdure.refuse_others, perdure.wrong_event_name, perdure.wrong_key, perdure.wrong_json, perdure.stage_fact,
    perdure.optional, perdure.publish, perdure.start_stream, perdure.start, perdure.command
from public;
