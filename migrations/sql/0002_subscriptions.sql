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
