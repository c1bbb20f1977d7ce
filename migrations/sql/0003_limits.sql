-- Limits that hold across nodes: so many attempts of a key at once, so many starts of a type in a time.

create table perdure.permits (
    key text not null,
    number bigint generated always as identity,
    run uuid not null,
    task_id text not null,
    primary key (key, number)
);
comment on table perdure.permits is 'Attempts that may begin, or began, of tasks whose key has a limit.';
comment on column perdure.permits.number is 'Later ones of a key have higher ones.';
create index permits_run on perdure.permits (run, task_id);
alter table perdure.permits set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

create table perdure.rates (
    name text not null,
    period double precision not null,
    slice bigint not null,
    begun integer not null,
    primary key (name, period, slice)
);
comment on table perdure.rates is 'How many attempts of a task type began lately.';
comment on column perdure.rates.period is 'Of the limit, in seconds. Another one is counted anew.';
comment on column perdure.rates.slice is 'The number of a slice of time, a tenth of the period.';
alter table perdure.rates set (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Of those who ask, who may begin, and the first permit of their key. Who has a permit already keeps it.
--
-- Up to "above" no permit of the key is left, only what an old transaction keeps from being vacuumed: numbers are drawn
-- under the key's lock, so they come in their order.
create function perdure.take_permits(
    node uuid, epoch integer, keys text[], limits integer[], runs uuid[], task_ids text[], above bigint[]
) returns table (number integer, granted boolean, first bigint) language plpgsql as $$
#variable_conflict use_variable
declare
    asked record;
    counted text;
    taken bigint;
    drawn bigint;
begin
    perform from perdure.nodes n where n.node = node and n.epoch = epoch for key share;
    if not found then
        raise exception 'node % no longer holds epoch %', node, epoch using errcode = 'PD003';
    end if;
    -- In one order everywhere, so that nobody waits in a circle.
    perform pg_advisory_xact_lock(hashtextextended(distinct_keys.key, 7201))
    from (select distinct k.key from unnest(keys) k(key) order by k.key) distinct_keys;
    for asked in
        select * from unnest(keys, limits, runs, task_ids, above)
            with ordinality a(key, most, run, task_id, above, number) order by a.key, a.number
    loop
        if counted is distinct from asked.key then
            counted := asked.key;
            select count(*), min(p.number) into taken, first
            from perdure.permits p where p.key = asked.key and p.number > asked.above;
        end if;
        granted := exists (select from perdure.permits p
                           where p.run = asked.run and p.task_id = asked.task_id and p.key = asked.key);
        if not granted and taken < asked.most then
            insert into perdure.permits (key, run, task_id) values (asked.key, asked.run, asked.task_id)
            returning permits.number into drawn;
            taken := taken + 1;
            first := coalesce(first, drawn);
            granted := true;
        end if;
        number := asked.number;
        return next;
    end loop;
end $$;

-- At most "most" in any time as long as "period": what began in the slice that it began in counts for ten more.
--
-- A slice is a row of its own, so that only what is counted is walked over, and not each state that one row ever had.
create function perdure.take_rate(
    name text, most integer, period double precision, wanted integer, out granted integer, out wait double precision
) language plpgsql as $$
#variable_conflict use_variable
declare
    width double precision := period / 10;
    now_ double precision;
    present bigint;
    counted bigint;
    oldest bigint;
    latest bigint;
    gone bigint;
begin
    perform pg_advisory_xact_lock(hashtextextended(name, 7202));
    now_ := extract(epoch from clock_timestamp());
    present := floor(now_ / width);
    -- A clock that went back a little counts as one that stands still; one that went back further counts anew.
    select greatest(present, max(r.slice)) into present from perdure.rates r
    where r.name = name and r.period = period and r.slice between present and present + 11;
    select coalesce(sum(r.begun), 0), min(r.slice), max(r.slice) into counted, oldest, latest from perdure.rates r
    where r.name = name and r.period = period and r.slice between present - 10 and present;
    granted := greatest(0, least(wanted, most - counted));
    if granted > 0 then
        insert into perdure.rates as r (name, period, slice, begun) values (name, period, present, granted)
        on conflict on constraint rates_pkey do update set begun = r.begun + excluded.begun;
        if latest is distinct from present then
            -- From the last slice that counts no more on, or all that is dead would be walked over.
            select max(r.slice) into gone from perdure.rates r
            where r.name = name and r.period = period and r.slice < present - 10;
            delete from perdure.rates r
            where r.name = name and r.period = period and r.slice between gone - 21 and gone;
        end if;
    end if;
    wait := 0;
    if granted < wanted then
        -- Until the oldest slice in which something began counts no more.
        wait := greatest((least(oldest, present) + 11) * width - now_, 0.001);
    end if;
end $$;
