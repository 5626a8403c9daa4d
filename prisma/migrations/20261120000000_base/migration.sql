-- The base of Lockstep: users, their sync state, the inbox of Stripe's events, and what stands around them.
-- Prisma's schema describes the tables; the functions, triggers, checks, partial indexes and the generated column below are
-- beyond it and live here only.

-- Now, for every rule that depends on time. A simulation sets `lockstep.now` on its connections and so owns the clock.
create function lockstep_now() returns timestamptz
language sql stable as $$
  select coalesce(nullif(current_setting('lockstep.now', true), '')::timestamptz, clock_timestamp())
$$;

-- A UUIDv7 (RFC 9562) for rows that another program inserts without an id.
create function lockstep_uuidv7() returns uuid
language sql volatile as $$
  select (
    lpad(to_hex((extract(epoch from lockstep_now()) * 1000)::bigint), 12, '0')
    || '7' || substr(h, 14, 3) || to_hex(8 + (('x' || substr(h, 17, 1))::bit(4)::int & 3)) || substr(h, 18, 15)
  )::uuid
  from (select replace(gen_random_uuid()::text, '-', '') as h) as random
$$;

create table tenants (
  id uuid primary key default lockstep_uuidv7(),
  slug text not null unique,
  name text not null,
  livemode boolean not null default false,
  stripe_account text unique,
  settings jsonb not null default '{}',
  events_read_through timestamptz,
  swept_at timestamptz,
  lane_paused_reason text,
  lane_paused_at timestamptz,
  lane_retry_at timestamptz,
  created_at timestamptz not null default lockstep_now(),
  updated_at timestamptz not null default lockstep_now()
);
comment on column tenants.events_read_through is 'Catch-up has stored every event that Stripe created before this time.';
comment on column tenants.swept_at is 'When a sweep last ended having seen every Stripe customer; before the first, creates look for an existing customer.';
comment on column tenants.lane_paused_at is 'Stripe refused our key (401/403): calls wait until lane_retry_at; the work is kept.';

insert into tenants (slug, name) values ('default', 'Default tenant');

-- The tenant of rows that another program inserts without one.
create function lockstep_default_tenant() returns uuid
language sql stable as $$ select id from tenants where slug = 'default' $$;

create table users (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null default lockstep_default_tenant() references tenants (id),
  type text not null default 'regular',
  state text not null default 'active',
  email text,
  phone text,
  first_name text,
  last_name text,
  description text,
  locale text,
  address jsonb,
  shipping jsonb,
  metadata jsonb not null default '{}',
  billing jsonb,
  stripe_customer_id varchar(255),
  revision integer not null default 1,
  field_times jsonb not null default '{}',
  archived_at timestamptz,
  created_at timestamptz not null default lockstep_now(),
  updated_at timestamptz not null default lockstep_now(),
  constraint users_type_check check (type in ('regular', 'unregistered', 'new', 'anonymous')),
  constraint users_state_check check (state in ('active', 'archived', 'erased')),
  constraint users_metadata_check check (jsonb_typeof(metadata) = 'object'),
  constraint users_address_check check (address is null or jsonb_typeof(address) = 'object'),
  constraint users_shipping_check check (shipping is null or jsonb_typeof(shipping) = 'object')
);
comment on column users.revision is 'Counts the changes of what Stripe should know; kept by the trigger.';
comment on column users.field_times is 'When each synced column, and each metadata key, last changed here; kept by the trigger.';

create unique index idx_users_stripe_customer_id on users (stripe_customer_id);
create index users_tenant_created_idx on users (tenant_id, created_at desc, id desc);
create index users_tenant_updated_idx on users (tenant_id, updated_at desc, id desc);
create index users_tenant_email_idx on users (tenant_id, lower(email));
create index users_tenant_phone_idx on users (tenant_id, phone);
-- The sweep walks a tenant's users by id.
create index users_tenant_id_idx on users (tenant_id, id);

create table sync_state (
  user_id uuid primary key,
  tenant_id uuid not null references tenants (id),
  status text not null default 'pending',
  base jsonb,
  remote jsonb,
  remote_as_of timestamptz,
  remote_times jsonb not null default '{}',
  local_revision integer not null default 1,
  synced_revision integer not null default 0,
  remote_revision integer not null default 0,
  remote_synced_revision integer not null default 0,
  needs_fetch boolean not null default false,
  dirty boolean not null generated always as (
    local_revision > synced_revision or remote_revision > remote_synced_revision or needs_fetch
  ) stored,
  dirty_since timestamptz default lockstep_now(),
  user_deleted boolean not null default false,
  attempts integer not null default 0,
  next_attempt_at timestamptz,
  last_error jsonb,
  rejected jsonb not null default '{}',
  lease_token integer not null default 0,
  lease_expires_at timestamptz,
  enqueued_until timestamptz,
  create_key text unique,
  create_params jsonb,
  create_started_at timestamptz,
  create_generation integer not null default 0,
  synced_at timestamptz,
  created_at timestamptz not null default lockstep_now(),
  updated_at timestamptz not null default lockstep_now(),
  constraint sync_state_status_check check (status in ('pending', 'in_sync', 'conflict', 'failed', 'detached', 'ignored'))
);
comment on column sync_state.dirty is 'Something may differ: the user waits for a reconcile.';
comment on column sync_state.needs_fetch is 'News came that the data in hand cannot judge: the next reconcile reads the Stripe customer.';
comment on column sync_state.rejected is 'Fields whose present local value Stripe refused, with the value and why; skipped until the value changes.';
comment on column sync_state.lease_token is 'Fencing token: every write of a reconcile requires the token that its lease was given.';
comment on column sync_state.enqueued_until is 'A job was queued; until then the relay does not queue it again. A queue that lost it costs that long.';

-- What the relay looks for: dirty, not given up on. Small, since settled users leave it.
create index sync_state_dirty_idx on sync_state (dirty_since) where dirty and status <> 'failed';
create index sync_state_unhealthy_idx on sync_state (tenant_id, status) where status in ('conflict', 'failed', 'detached');

create table stripe_links (
  tenant_id uuid not null references tenants (id),
  stripe_customer_id varchar(255) not null,
  user_id uuid,
  how text not null,
  stripe_created timestamptz,
  linked_at timestamptz not null default lockstep_now(),
  unlinked_at timestamptz,
  deleted_at timestamptz,
  primary key (tenant_id, stripe_customer_id),
  constraint stripe_links_how_check check (how in ('created', 'lockstep_id', 'email', 'phone', 'imported', 'attached', 'tombstone'))
);
comment on table stripe_links is 'Every Stripe customer id a user ever had, and the ids that Stripe deleted: those never come back.';
create unique index stripe_links_one_live_idx on stripe_links (user_id) where unlinked_at is null and deleted_at is null;
create index stripe_links_user_idx on stripe_links (user_id);
create index stripe_links_created_idx on stripe_links (tenant_id, stripe_created) where unlinked_at is null and deleted_at is null;

create table stripe_writes (
  idempotency_key text primary key,
  tenant_id uuid not null references tenants (id),
  user_id uuid not null,
  stripe_customer_id varchar(255),
  kind text not null,
  lease_token integer not null,
  held jsonb,
  sent jsonb not null,
  disowned text[] not null default '{}',
  outcome text,
  started_at timestamptz not null default lockstep_now(),
  settled_at timestamptz,
  constraint stripe_writes_outcome_check check (outcome in ('answered', 'refused') and settled_at is not null or outcome is null),
  constraint stripe_writes_kind_check check (kind in ('create', 'update', 'delete'))
);
comment on table stripe_writes is 'Our writes to Stripe, stored before each call: its key comes back in the event, and tells an echo from an edit.';
comment on column stripe_writes.disowned is 'Fields that are known to have been set since, by someone else or by a later write: what Stripe holds of them is not this write''s.';
create index stripe_writes_unsettled_idx on stripe_writes (user_id) where settled_at is null;
create index stripe_writes_started_idx on stripe_writes (started_at);

create table stripe_events (
  tenant_id uuid not null references tenants (id),
  id text not null,
  account text,
  type text not null,
  api_version text,
  livemode boolean not null,
  stripe_customer_id varchar(255),
  idempotency_key text,
  created timestamptz not null,
  payload jsonb not null,
  source text not null,
  status text not null default 'pending',
  outcome text,
  attempts integer not null default 0,
  error text,
  next_attempt_at timestamptz,
  received_at timestamptz not null default lockstep_now(),
  processed_at timestamptz,
  primary key (tenant_id, id),
  constraint stripe_events_source_check check (source in ('webhook', 'catch_up')),
  constraint stripe_events_status_check check (status in ('pending', 'processed', 'ignored', 'failed', 'quarantined'))
);
comment on table stripe_events is 'The inbox: every event is stored here before it is acknowledged.';
create index stripe_events_pending_idx on stripe_events (received_at) where status = 'pending';
create index stripe_events_failed_idx on stripe_events (received_at) where status = 'failed';
create index stripe_events_received_idx on stripe_events (tenant_id, received_at desc, id desc);
create index stripe_events_customer_idx on stripe_events (tenant_id, stripe_customer_id, created);

create table sync_conflicts (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null references tenants (id),
  user_id uuid not null,
  field text not null,
  reason text not null,
  policy text not null,
  base jsonb,
  local jsonb,
  remote jsonb,
  local_at timestamptz,
  remote_at timestamptz,
  winner text,
  status text not null,
  detected_at timestamptz not null default lockstep_now(),
  resolved_at timestamptz,
  resolved_by text,
  constraint sync_conflicts_reason_check check (reason in ('both_changed', 'overwritten', 'cannot_clear')),
  constraint sync_conflicts_winner_check check (winner in ('local', 'stripe')),
  constraint sync_conflicts_status_check check (status in ('open', 'resolved')),
  constraint sync_conflicts_resolved_check check ((status = 'resolved') = (winner is not null))
);
create unique index sync_conflicts_open_idx on sync_conflicts (user_id, field) where status = 'open';
create index sync_conflicts_tenant_idx on sync_conflicts (tenant_id, detected_at desc, id desc);
create index sync_conflicts_user_idx on sync_conflicts (user_id);

create table duplicate_customers (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null references tenants (id),
  stripe_customer_id varchar(255) not null,
  user_id uuid,
  reason text not null,
  candidates jsonb not null default '[]',
  status text not null default 'open',
  detected_at timestamptz not null default lockstep_now(),
  unique (tenant_id, stripe_customer_id),
  constraint duplicate_customers_reason_check check (reason in ('lockstep_id', 'email', 'phone', 'ambiguous')),
  constraint duplicate_customers_status_check check (status in ('open', 'linked', 'ignored', 'merged'))
);
create index duplicate_customers_tenant_idx on duplicate_customers (tenant_id, detected_at desc, id desc);

create table reconciliations (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null references tenants (id),
  kind text not null,
  trigger text not null,
  dry_run boolean not null default false,
  status text not null default 'queued',
  progress jsonb not null default '{}',
  counts jsonb not null default '{}',
  error jsonb,
  requested_by text,
  lease_token integer not null default 0,
  lease_expires_at timestamptz,
  created_at timestamptz not null default lockstep_now(),
  started_at timestamptz,
  finished_at timestamptz,
  constraint reconciliations_kind_check check (kind in ('catch_up', 'sweep')),
  constraint reconciliations_trigger_check check (trigger in ('api', 'cli', 'schedule', 'start')),
  constraint reconciliations_status_check check (status in ('queued', 'running', 'succeeded', 'failed'))
);
create index reconciliations_tenant_idx on reconciliations (tenant_id, created_at desc, id desc);
create index reconciliations_unfinished_idx on reconciliations (status) where status in ('queued', 'running');

create table audit_log (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null references tenants (id),
  actor text not null,
  action text not null,
  entity text not null,
  entity_id text not null,
  changes jsonb,
  request_id text,
  ip text,
  at timestamptz not null default lockstep_now()
);
create index audit_log_entity_idx on audit_log (tenant_id, entity, entity_id, at desc);

create table api_keys (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null references tenants (id),
  name text not null,
  prefix text not null,
  hash text not null unique,
  role text not null,
  expires_at timestamptz,
  revoked_at timestamptz,
  last_used_at timestamptz,
  created_at timestamptz not null default lockstep_now(),
  constraint api_keys_role_check check (role in ('admin', 'manager', 'viewer'))
);
create index api_keys_tenant_idx on api_keys (tenant_id);

create table idempotency_keys (
  tenant_id uuid not null references tenants (id),
  key varchar(255) not null,
  fingerprint text not null,
  status integer,
  body jsonb,
  locked_until timestamptz,
  created_at timestamptz not null default lockstep_now(),
  primary key (tenant_id, key)
);
create index idempotency_keys_created_idx on idempotency_keys (created_at);

-- The token buckets of rate-limiter-flexible, in its own form.
create table rate_limits (
  key varchar(255) primary key,
  points integer not null default 0,
  expire bigint
);

-- Counts the change and notes when each synced column changed, before the row is written: now, unless the writer itself gives
-- another time for it in `field_times`, as for a value that is older than its place in this row.
create function lockstep_track_user() returns trigger
language plpgsql as $$
declare
  now_text text := to_char(lockstep_now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
  before jsonb := case when tg_op = 'UPDATE' then to_jsonb(old) else '{}'::jsonb end;
  after jsonb := to_jsonb(new);
  times jsonb := case when tg_op = 'UPDATE' then old.field_times else '{}'::jsonb end;
  given jsonb := (
    select coalesce(jsonb_object_agg(key, value), '{}'::jsonb) from jsonb_each(new.field_times)
    where value is distinct from times -> key
  );
  changed boolean := tg_op = 'INSERT';
  field text;
begin
  if tg_op = 'UPDATE' and (new.id <> old.id or new.tenant_id <> old.tenant_id) then
    raise exception 'users.id and users.tenant_id cannot change: the Stripe customer of user % hangs on them', old.id
      using errcode = 'integrity_constraint_violation', hint = 'Insert a new row instead.';
  end if;
  foreach field in array array['email', 'phone', 'first_name', 'last_name', 'description', 'locale', 'address', 'shipping', 'type', 'state'] loop
    if (after -> field) is distinct from coalesce(before -> field, 'null'::jsonb) then
      times := jsonb_set(times, array[field], coalesce(given -> field, to_jsonb(now_text)));
      changed := true;
    end if;
  end loop;
  if (after -> 'metadata') is distinct from (before -> 'metadata') then
    for field in
      select key from (
        select jsonb_object_keys(after -> 'metadata') as key
        union
        select jsonb_object_keys(coalesce(before -> 'metadata', '{}'::jsonb))
      ) as keys
      where (after -> 'metadata' -> key) is distinct from (before -> 'metadata' -> key)
    loop
      times := jsonb_set(times, array['metadata.' || field], coalesce(given -> ('metadata.' || field), to_jsonb(now_text)));
      changed := true;
    end loop;
  end if;
  new.field_times := times;
  if tg_op = 'INSERT' then
    new.revision := 1;
  elsif changed then
    new.revision := old.revision + 1;
    new.updated_at := lockstep_now();
  else
    new.revision := old.revision;
  end if;
  return new;
end $$;

create trigger users_100_track before insert or update on users
for each row execute function lockstep_track_user();

-- Marks the user dirty: the one thing that a local write has to do, whoever writes.
create function lockstep_mark_dirty() returns trigger
language plpgsql as $$
begin
  if tg_op = 'DELETE' then
    update sync_state
    set local_revision = local_revision + 1, user_deleted = true, status = 'pending', attempts = 0,
        next_attempt_at = null, enqueued_until = null, dirty_since = coalesce(dirty_since, lockstep_now()),
        updated_at = lockstep_now()
    where user_id = old.id;
    return old;
  end if;
  insert into sync_state (user_id, tenant_id, local_revision)
  values (new.id, new.tenant_id, new.revision)
  on conflict (user_id) do update
  set local_revision = greatest(sync_state.local_revision + 1, excluded.local_revision),
      user_deleted = false,
      status = case when sync_state.status in ('in_sync', 'failed', 'ignored') then 'pending' else sync_state.status end,
      attempts = 0, next_attempt_at = null, enqueued_until = null,
      dirty_since = coalesce(sync_state.dirty_since, lockstep_now()), updated_at = lockstep_now();
  return new;
end $$;

create trigger users_900_mark_dirty_insert after insert on users
for each row execute function lockstep_mark_dirty();
create trigger users_900_mark_dirty_update after update on users
for each row when (new.revision is distinct from old.revision) execute function lockstep_mark_dirty();
create trigger users_900_mark_dirty_delete after delete on users
for each row execute function lockstep_mark_dirty();

-- Another program wrote `users.stripe_customer_id` (an application that had its own link before Lockstep came): that link
-- counts. Our own code writes `stripe_links` first, so for it there is nothing left to do here.
create function lockstep_follow_link() returns trigger
language plpgsql as $$
begin
  if tg_op = 'UPDATE' and old.stripe_customer_id is not null then
    update stripe_links set unlinked_at = lockstep_now()
    where tenant_id = old.tenant_id and stripe_customer_id = old.stripe_customer_id and user_id = old.id
      and unlinked_at is null and deleted_at is null;
  end if;
  if new.stripe_customer_id is not null then
    insert into stripe_links (tenant_id, stripe_customer_id, user_id, how)
    values (new.tenant_id, new.stripe_customer_id, new.id, 'attached')
    on conflict (tenant_id, stripe_customer_id) do update
      set user_id = excluded.user_id, how = 'attached', linked_at = lockstep_now(), unlinked_at = null
      where stripe_links.unlinked_at is not null and stripe_links.deleted_at is null;
    if found then
      update sync_state
      set base = null, remote = null, remote_as_of = null, remote_times = '{}', needs_fetch = true,
          remote_revision = remote_revision + 1, status = 'pending', attempts = 0, next_attempt_at = null,
          enqueued_until = null, dirty_since = coalesce(dirty_since, lockstep_now()), updated_at = lockstep_now()
      where user_id = new.id;
    elsif not exists (
      select from stripe_links
      where tenant_id = new.tenant_id and stripe_customer_id = new.stripe_customer_id and user_id = new.id
        and unlinked_at is null and deleted_at is null
    ) then
      raise exception 'Stripe customer % was deleted in Stripe, or is another user''s', new.stripe_customer_id
        using errcode = 'integrity_constraint_violation',
              hint = 'Set users.stripe_customer_id to null: Lockstep then links or makes a customer.';
    end if;
  end if;
  return new;
end $$;

-- After the trigger that makes the sync state: triggers of one kind fire in the order of their names.
create trigger users_950_follow_link_insert after insert on users
for each row when (new.stripe_customer_id is not null) execute function lockstep_follow_link();
create trigger users_950_follow_link_update after update of stripe_customer_id on users
for each row when (new.stripe_customer_id is distinct from old.stripe_customer_id) execute function lockstep_follow_link();
