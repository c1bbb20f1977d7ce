-- The Merkle tree over the settled log, and its signed heads. All of it is append-only, as the log is.

create table perdure.identity (
    id smallint primary key default 1 check (id = 1),
    log_id uuid not null
);
comment on table perdure.identity is 'Which log this is: a random id, made once, that its signed heads bear.';
insert into perdure.identity (log_id) values (gen_random_uuid());

create table perdure.tree_chunks (
    number bigint primary key,
    first_position bigint not null,
    last_position bigint not null,
    leaves bytea not null,
    root bytea not null
);
create index tree_chunks_first_position on perdure.tree_chunks (first_position);
comment on table perdure.tree_chunks is 'The tree''s leaves, 256 a row, in the order of position.';
comment on column perdure.tree_chunks.leaves is '256 times the position (8 bytes, big-endian) and the hash of an event.';
-- Hashes cannot be compressed.
alter table perdure.tree_chunks alter column leaves set storage external;

create table perdure.tree_nodes (
    level smallint not null,
    number bigint not null,
    hash bytea not null,
    primary key (level, number)
);
comment on table perdure.tree_nodes is 'The roots of complete subtrees above the chunks: level 9 has 512 leaves below it.';

create table perdure.heads (
    size bigint primary key,
    position bigint not null,
    root bytea not null,
    note text not null,
    signed_at timestamptz not null
);
comment on table perdure.heads is 'Every signed head of the tree; the note is what was signed and published.';

create trigger identity_is_final before update or delete or truncate on perdure.identity
    for each statement execute function perdure.refuse_change();
create trigger tree_chunks_are_final before update or delete or truncate on perdure.tree_chunks
    for each statement execute function perdure.refuse_change();
create trigger tree_nodes_are_final before update or delete or truncate on perdure.tree_nodes
    for each statement execute function perdure.refuse_change();
create trigger heads_are_final before update or delete or truncate on perdure.heads
    for each statement execute function perdure.refuse_change();
alter table perdure.identity enable always trigger identity_is_final;
alter table perdure.tree_chunks enable always trigger tree_chunks_are_final;
alter table perdure.tree_nodes enable always trigger tree_nodes_are_final;
alter table perdure.heads enable always trigger heads_are_final;

-- Where the check of the log asks for the events that retention removed. It is a hint and no more: what is believed is
-- the StreamArchived event of each of these streams. Whoever removes events replaces this function.
create function perdure.archived_streams(first_position bigint, last_position bigint) returns setof uuid
    language sql stable as $$ select null::uuid where false $$;
comment on function perdure.archived_streams is 'Archived streams that may have had events between two positions.';
