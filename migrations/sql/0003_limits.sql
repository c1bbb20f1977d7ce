-- Limits that hold across nodes: so many attempts of a key at once, so many starts of a type in a time.

create table perdure.permits (
    key text not null,
    run uuid not null,
    task_id text not null,
    primary key (key, run, task_id)
);
comment on table perdure.permits is 'Attempts that may begin, or began, of tasks whose key has a limit.';
create index permits_run on perdure.permits (run, task_id);
alter table perdure.permits set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

create table perdure.rates (
    name text primary key,
    slice bigint not null,
    counts integer[] not null
);
comment on table perdure.rates is 'How many attempts of a task type began lately.';
comment on column perdure.rates.slice is 'The number of the latest slice of time, a tenth of the period of the limit.';
comment on column perdure.rates.counts is 'Begun in that slice and the ten before it, the latest first.';
alter table perdure.rates set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Of those who ask, in their order, the numbers of those who may begin. Who has a permit already keeps it.
create function perdure.take_permits(
    node uuid, epoch integer, keys text[], limits integer[], runs uuid[], task_ids text[]
) returns integer[] language plpgsql as $$
#variable_conflict use_variable
declare
    asked record;
    granted integer[] := '{}';
begin
    perform from perdure.nodes n where n.node = node and n.epoch = epoch for key share;
    if not found then
        raise exception 'node % no longer holds epoch %', node, epoch using errcode = 'PD003';
    end if;
    -- In one order everywhere, so that nobody waits in a circle.
    perform pg_advisory_xact_lock(hashtextextended(distinct_keys.key, 7201))
    from (select distinct k.key from unnest(keys) k(key) order by k.key) distinct_keys;
    for asked in
        select * from unnest(keys, limits, runs, task_ids) with ordinality a(key, most, run, task_id, number)
    loop
        if exists (select from perdure.permits p
                   where p.key = asked.key and p.run = asked.run and p.task_id = asked.task_id) then
            granted := granted || asked.number::integer;
        elsif (select count(*) from perdure.permits p where p.key = asked.key) < asked.most then
            insert into perdure.permits (key, run, task_id) values (asked.key, asked.run, asked.task_id);
            granted := granted || asked.number::integer;
        end if;
    end loop;
    return granted;
end $$;

-- At most "most" in any time as long as "period": what began in the slice that it began in counts for ten more.
create function perdure.take_rate(
    name text, most integer, period double precision, wanted integer, out granted integer, out wait double precision
) language plpgsql as $$
#variable_conflict use_variable
declare
    now_ double precision := extract(epoch from clock_timestamp());
    width double precision := period / 10;
    present bigint := floor(now_ / width);
    found_ perdure.rates;
    passed integer;
begin
    insert into perdure.rates (name, slice, counts) values (name, present, array_fill(0, array[11]))
    on conflict do nothing;
    select * into found_ from perdure.rates r where r.name = name for update;
    now_ := extract(epoch from clock_timestamp());
    -- A clock that went back counts as one that stands still; another period begins anew.
    present := greatest(floor(now_ / width)::bigint, case when found_.slice <= floor(now_ / width) + 11 then found_.slice end);
    passed := least(present - found_.slice, 11);
    if passed <> 0 then
        found_.counts := case when passed between 1 and 10
            then array_fill(0, array[passed]) || found_.counts[1 : 11 - passed] else array_fill(0, array[11]) end;
    end if;
    granted := greatest(0, least(wanted, most - (select sum(c) from unnest(found_.counts) c)));
    found_.counts[1] := found_.counts[1] + granted;
    update perdure.rates r set slice = present, counts = found_.counts where r.name = name;
    wait := 0;
    if granted < wanted then
        -- Until the oldest slice in which something began counts no more.
        select (present + 1 + (11 - max(n))) * width - now_ into wait
        from unnest(found_.counts) with ordinality c(begun, n) where c.begun > 0;
        wait := greatest(wait, 0.001);
    end if;
end $$;
