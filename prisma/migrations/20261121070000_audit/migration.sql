-- The audit log becomes append-only and tamper-evident, and a write of `users` that nobody else records is recorded by a trigger.
-- Until this release the log holds the writes of the REST API only, so the indexes are made at once. Where it has grown to many
-- millions of rows, make them by `create index concurrently` before; `if not exists` then passes them by.
alter table audit_log add column cause text, add column seq bigint, add column hash bytea;
comment on column audit_log.actor is '`key:<id>`, `jwt:<subject>`, `cli`, `system`; `sql:<role>` for a write past the service; `stripe` for an edit there, `sync` for what the sync did.';
comment on column audit_log.changes is 'What changed: `fields` by path, each with `from` and `to`. Personal data in it is sealed with the key of the person that `entity_id` names.';
comment on column audit_log.cause is 'What led to it: a Stripe event (evt_…), a run (run:<id>), a conflict (conflict:<id>) or a duplicate (duplicate:<id>).';
comment on column audit_log.seq is 'Its number in the chain of the tenant, from 1 on without gaps; null for the moment until it is chained.';
comment on column audit_log.hash is 'SHA-256 of the hash before it and of the entry as it is stored; see src/repositories/audit-chain.ts.';
alter table audit_log add constraint audit_log_chained_check check ((seq is null) = (hash is null)) not valid;
alter table audit_log validate constraint audit_log_chained_check;

create unique index if not exists audit_log_seq_idx on audit_log (tenant_id, seq);
create index if not exists audit_log_unchained_idx on audit_log (at, id) where seq is null;
create index if not exists audit_log_at_idx on audit_log (tenant_id, at desc, id desc);
create index if not exists audit_log_actor_idx on audit_log (tenant_id, actor, at desc, id desc);
create index if not exists audit_log_action_idx on audit_log (tenant_id, action, at desc, id desc);

create table audit_heads (
  tenant_id uuid primary key references tenants (id),
  seq bigint not null,
  hash bytea not null,
  checkpoint_seq bigint not null default 0,
  checkpoint_hash bytea not null,
  updated_at timestamptz not null default lockstep_now()
);
comment on table audit_heads is 'The end of each tenant''s chain, and the place where it now begins: what came before was removed by retention.';

-- Nothing in the log is changed or removed, but: an entry gets its place in the chain, once; and retention removes old entries, and
-- a restore puts entries back, in a transaction that says so by `select set_config('lockstep.audit_retention', 'on', true)`.
-- `npx lockstep audit trim` is such a transaction, and records itself.
create function lockstep_guard_audit() returns trigger
language plpgsql as $$
declare
  is_retention boolean := coalesce(current_setting('lockstep.audit_retention', true), '') = 'on';
begin
  if tg_op = 'UPDATE' then
    if old.seq is null and new.seq is not null then
      old.seq := new.seq;
      old.hash := new.hash;
      if old is not distinct from new then
        return new;
      end if;
    end if;
  elsif is_retention then
    return coalesce(new, old);
  end if;
  raise exception 'audit_log is append-only: % refused', tg_op
    using errcode = 'insufficient_privilege', hint = 'Old entries are removed by: npx lockstep audit trim --before <time>';
end $$;

create trigger audit_log_100_guard_insert before insert on audit_log
for each row when (new.seq is not null or new.hash is not null) execute function lockstep_guard_audit();
create trigger audit_log_100_guard before update or delete on audit_log
for each row execute function lockstep_guard_audit();
create trigger audit_log_100_guard_truncate before truncate on audit_log
for each statement execute function lockstep_guard_audit();

-- Records a change of `users` that whoever made it did not record: a write by plain SQL. At the end of the transaction, since the
-- service writes its own entry after the row, and notes in `lockstep.recorded` (`<user id>:<revision>;`, of this transaction) which
-- changes have one: looking for it in the log would cost every other program's write more. Which fields and who, but no
-- personal data: the sync, which sees both sides, records the values, sealed.
create function lockstep_audit_user() returns trigger
language plpgsql as $$
declare
  fields jsonb := '{}';
  extra jsonb;
begin
  if tg_op <> 'DELETE' and position(new.id || ':' || new.revision || ';' in current_setting('lockstep.recorded', true)) > 0 then
    return null;
  end if;
  -- Of a row that is new, `old` is null in every column; of one that is gone, `new`.
  if new.email is distinct from old.email then fields := fields || '{"email": {}}'; end if;
  if new.phone is distinct from old.phone then fields := fields || '{"phone": {}}'; end if;
  if new.first_name is distinct from old.first_name or new.last_name is distinct from old.last_name then
    fields := fields || '{"name": {}}';
  end if;
  if new.description is distinct from old.description then fields := fields || '{"description": {}}'; end if;
  if new.locale is distinct from old.locale then fields := fields || '{"locale": {}}'; end if;
  if new.address is distinct from old.address then fields := fields || '{"address": {}}'; end if;
  if new.shipping is distinct from old.shipping then fields := fields || '{"shipping": {}}'; end if;
  if new.type is distinct from old.type then
    fields := fields || jsonb_build_object('type', jsonb_build_object('from', old.type, 'to', new.type));
  end if;
  if new.state is distinct from old.state then
    fields := fields || jsonb_build_object('state', jsonb_build_object('from', old.state, 'to', new.state));
  end if;
  if new.metadata is distinct from old.metadata then
    select jsonb_object_agg('metadata.' || key, '{}'::jsonb) into extra
    from (
      select jsonb_object_keys(coalesce(new.metadata, '{}')) as key
      union
      select jsonb_object_keys(coalesce(old.metadata, '{}'))
    ) as keys
    where (new.metadata -> key) is distinct from (old.metadata -> key);
    fields := fields || coalesce(extra, '{}');
  end if;
  extra := jsonb_build_object('fields', fields, 'program', nullif(current_setting('application_name'), ''));
  if tg_op <> 'DELETE' then
    extra := extra || jsonb_build_object('revision', new.revision);
  end if;
  insert into audit_log (tenant_id, actor, action, entity, entity_id, changes, ip)
  values (
    coalesce(new.tenant_id, old.tenant_id),
    'sql:' || session_user,
    case tg_op when 'INSERT' then 'customer.create' when 'UPDATE' then 'customer.update' else 'customer.delete' end,
    'customer', coalesce(new.id, old.id)::text, extra, host(inet_client_addr())
  );
  return null;
end $$;

create constraint trigger users_960_audit_insert after insert on users
deferrable initially deferred for each row execute function lockstep_audit_user();
create constraint trigger users_960_audit_update after update on users
deferrable initially deferred for each row when (new.revision is distinct from old.revision) execute function lockstep_audit_user();
create trigger users_960_audit_delete after delete on users
for each row execute function lockstep_audit_user();

-- Which of the installation's keys seal payloads is asked at every start and by the rotation.
create index stripe_events_sealed_with_idx on stripe_events (substr(payload ->> 'sealed', 4, 16)) where payload ? 'sealed';
