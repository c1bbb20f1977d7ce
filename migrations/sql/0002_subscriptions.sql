-- Subscriptions that several consumers share, divided by stream into parts, each with a checkpoint of its own. What was
-- there becomes the one part of a subscription that is not divided.

alter table perdure.subscriptions
    add column part smallint not null default 0,
    add column parts smallint not null default 1,
    drop constraint subscriptions_pkey,
    add primary key (name, part),
    add constraint subscriptions_part check (part between 0 and parts - 1 and parts <= 64);
comment on table perdure.subscriptions is 'How far each part of each durable subscription has read.';
comment on column perdure.subscriptions.part is 'Of the streams whose id''s last byte, modulo parts, is this.';

-- A checkpoint moves with every batch: it changes in place, and its dead rows go soon.
alter table perdure.subscriptions set (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- The first event of a part in a span of the log, of these types (null: all). In order of position, and no further than
-- need be: the settings keep a planner that knows nothing of a young table from sorting the whole span for one row.
create function perdure.next_event(after bigint, last bigint, types text[], parts smallint, part smallint) returns bigint
language plpgsql stable set enable_bitmapscan = off set enable_seqscan = off set enable_sort = off as $$
begin
    return (
        select e.position from perdure.events e
        where e.position > after and e.position <= last and (types is null or e.type = any (types))
            and (parts = 1 or mod(get_byte(uuid_send(e.stream), 15), parts) = part)
        order by e.position limit 1);
end $$;
