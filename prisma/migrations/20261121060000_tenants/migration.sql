-- Tenants with Stripe accounts of their own. The columns are added without rewriting a row, and `tenants` and `api_keys` are
-- small; `person_keys` came in the release before this one, so its index is built in a moment.
alter table tenants
  add column stripe_secret_key text,
  add column stripe_webhook_secrets text[] not null default '{}',
  add column stripe_key_account text,
  add column stripe_key_set_at timestamptz;
comment on column tenants.stripe_secret_key is 'The tenant''s own key, sealed; null: the platform''s (STRIPE_SECRET_KEY).';
comment on column tenants.stripe_webhook_secrets is 'Sealed, each by itself; any of them may have signed a delivery.';
comment on column tenants.stripe_key_account is 'The account of the tenant''s own key; null where the key may not say.';

-- Two tenants with one account would take each other's customers for their own.
create unique index tenants_account_idx on tenants (coalesce(stripe_account, stripe_key_account), livemode)
where stripe_account is not null or stripe_key_account is not null;

-- Which of the installation's keys are in use is asked at every start and by the rotation.
create index person_keys_sealed_with_idx on person_keys (substr(sealed_key, 4, 16)) where sealed_key is not null;

-- An operator looks after the installation and its tenants.
alter table api_keys drop constraint api_keys_role_check;
alter table api_keys add constraint api_keys_role_check check (role in ('admin', 'manager', 'viewer', 'operator'));

-- Puts the tables with a tenant behind row-level security for the role `lockstep_api`, which the API takes on for each request:
-- code that forgets the tenant reads nothing of another one's. Nobody else is bound by it: other programs and the workers see
-- all, as before. To be called, each time in a transaction of its own, until it no longer answers `next`:
--   next     one step is done: the role, or one table. A step locks no more than one table, and that for a moment.
--   busy     a table was in use for longer than a second: nothing is done, to be tried again.
--   done     it holds. Safe to call again: a later table is taken in then.
--   refused  this user may not make roles. A database administrator can (`create role lockstep_api nologin; grant lockstep_api to
--            <user>`), and the next start does the rest.
create function lockstep_isolate() returns text
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
  select c.relname as name, case when c.relname = 'tenants' then 'id' else 'tenant_id' end as owner into place
  from pg_class c
  where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
    and (c.relname = 'tenants' or exists (
      select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped))
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
  execute format(
    'create policy lockstep_tenant on %I as restrictive to lockstep_api
       using (%I = (select nullif(current_setting(''lockstep.tenant_id'', true), '''')::uuid))',
    place.name, place.owner);
  return 'next';
exception
  when insufficient_privilege then
    return 'refused';
  when lock_not_available or deadlock_detected or unique_violation then
    return 'busy';
end $$;
