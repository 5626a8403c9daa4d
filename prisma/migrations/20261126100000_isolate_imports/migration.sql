-- Uploads go through row-level security too: the pieces of a file, the lines that were refused, and whom a dry run would have made
-- name no tenant, but belong to an import, which does. Only the function is replaced here; the next start of the API has it take
-- these tables in, each for a moment, as it did with the others. What it answers is said where it was first made.
create or replace function lockstep_isolate() returns text
language plpgsql as $$
declare
  place record;
begin
  -- Whoever wants the table meanwhile queues behind this.
  set local lock_timeout = '1s';
  -- Processes that start together: one does a step, the others find it done.
  perform pg_advisory_xact_lock(hashtextextended('lockstep_isolate', 0));
  if not exists (select from pg_roles where rolname = 'lockstep_api') then
    begin
      create role lockstep_api nologin;
    -- A role is of the whole server: it may be made for another database at the same time.
    exception when duplicate_object or unique_violation then null;
    end;
    return 'next';
  end if;
  if exists (select from pg_roles where rolname = 'lockstep_api' and (rolsuper or rolbypassrls)) then
    return 'refused';
  end if;
  begin
    set local role lockstep_api;
    set local role none;
  exception when insufficient_privilege then
    set local role none;
    execute format('grant lockstep_api to %I', session_user);
    return 'next';
  end;
  if not has_schema_privilege('lockstep_api', current_schema(), 'usage') then
    execute format('grant usage on schema %I to lockstep_api', current_schema());
    return 'next';
  end if;
  -- Whose a row is: the tenant itself, one that its row names, or the one of the import that it belongs to.
  select c.relname as name, case
      when c.relname = 'tenants' then 'id = ' || mine.id
      when o.attname = 'tenant_id' then 'tenant_id = ' || mine.id
      else 'exists (select from imports i where i.id = import_id)'
    end as condition into place
  from pg_class c
  left join pg_attribute o on o.attrelid = c.oid and not o.attisdropped and o.attname = case
    when c.relname in ('import_chunks', 'import_errors', 'import_seen') then 'import_id' else 'tenant_id' end
  cross join (values ('(select nullif(current_setting(''lockstep.tenant_id'', true), '''')::uuid)')) as mine (id)
  where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
    and (c.relname = 'tenants' or o.attname is not null)
    and not (c.relrowsecurity and exists (
      select from pg_policy p where p.polrelid = c.oid and p.polname = 'lockstep_tenant'))
  order by c.relname limit 1;
  if not found then
    return 'done';
  end if;
  execute format('alter table %I enable row level security', place.name);
  execute format('grant select, insert, update, delete on %I to lockstep_api', place.name);
  execute format('drop policy if exists lockstep_everyone on %I', place.name);
  execute format('drop policy if exists lockstep_tenant on %I', place.name);
  -- Of this kind one must let a row pass, for whomever; of the next kind all must.
  execute format('create policy lockstep_everyone on %I using (true) with check (true)', place.name);
  execute format('create policy lockstep_tenant on %I as restrictive to lockstep_api using (%s)', place.name, place.condition);
  return 'next';
exception
  when insufficient_privilege then
    return 'refused';
  when lock_not_available or deadlock_detected or unique_violation then
    return 'busy';
end $$;
