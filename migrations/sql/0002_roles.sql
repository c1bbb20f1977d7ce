-- Who may do what: whoever runs nodes and clients reads the log, and appends to it through these two functions alone.

alter function perdure.append_batch security definer set search_path = pg_catalog, pg_temp;
alter function perdure.append_with_work security definer set search_path = pg_catalog, pg_temp;
revoke execute on function perdure.append_batch from public;
revoke execute on function perdure.append_with_work from public;
