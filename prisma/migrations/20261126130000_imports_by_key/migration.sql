-- Makes the import of a user cost less, mostly of what Postgres does for each row. Only functions change: no table is locked.

-- As before, in a language that evaluates a lone expression without a plan of its own: a quarter of the time, dozens of times for each user.
create or replace function lockstep_now() returns timestamptz
language plpgsql stable as $$
begin
  return coalesce(nullif(current_setting('lockstep.now', true), '')::timestamptz, clock_timestamp());
end $$;

-- The same.
create or replace function lockstep_uuidv7() returns uuid
language plpgsql volatile as $$
declare
  h text := replace(gen_random_uuid()::text, '-', '');
begin
  return (
    lpad(to_hex((extract(epoch from lockstep_now()) * 1000)::bigint), 12, '0')
    || '7' || substr(h, 14, 3) || to_hex(8 + (('x' || substr(h, 17, 1))::bit(4)::int & 3)) || substr(h, 18, 15)
  )::uuid;
end $$;

-- As before, but a user that is added together with its state (`lockstep.agreed`, see `insertImportedUsers`) gets none from here either.
create or replace function lockstep_mark_dirty() returns trigger
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
  if coalesce(current_setting('lockstep.agreed', true), '') = 'on' then
    return new;
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

-- As before, but looks first whether the link is there already, as it is after every write of our own, and always by its key. A connection
-- keeps the plan that it made while `stripe_links` was all but empty: it read all live links of the tenant, which an index of those allowed, for
-- each user that an import added. Where it is not said that only live links count, that index is none to choose.
create or replace function lockstep_follow_link() returns trigger
language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
declare
  is_theirs boolean := false;
  link stripe_links;
begin
  if tg_op = 'UPDATE' and old.stripe_customer_id is not null then
    update stripe_links set unlinked_at = lockstep_now()
    where tenant_id = old.tenant_id and stripe_customer_id = old.stripe_customer_id and user_id = old.id
      and coalesce(unlinked_at, deleted_at) is null;
    is_theirs := found;
  end if;
  if new.stripe_customer_id is not null then
    select * into link from stripe_links where tenant_id = new.tenant_id and stripe_customer_id = new.stripe_customer_id;
    if link.user_id is distinct from new.id or link.unlinked_at is not null or link.deleted_at is not null then
      insert into stripe_links (tenant_id, stripe_customer_id, user_id, how)
      values (new.tenant_id, new.stripe_customer_id, new.id, 'attached')
      on conflict (tenant_id, stripe_customer_id) do update
        set user_id = excluded.user_id, how = 'attached', linked_at = lockstep_now(), unlinked_at = null
        where stripe_links.unlinked_at is not null and stripe_links.deleted_at is null;
      if found then
        is_theirs := true;
        update sync_state
        set base = null, remote = null, remote_as_of = null, remote_times = '{}', needs_fetch = true,
            remote_revision = remote_revision + 1, status = 'pending', attempts = 0, next_attempt_at = null,
            enqueued_until = null, dirty_since = coalesce(dirty_since, lockstep_now()), updated_at = lockstep_now()
        where user_id = new.id;
      elsif not exists (
        select from stripe_links
        where tenant_id = new.tenant_id and stripe_customer_id = new.stripe_customer_id and user_id = new.id
          and coalesce(unlinked_at, deleted_at) is null
      ) then
        raise exception 'Stripe customer % was deleted in Stripe, or is another user''s', new.stripe_customer_id
          using errcode = 'integrity_constraint_violation',
                hint = 'Set users.stripe_customer_id to null: Lockstep then links or makes a customer.';
      end if;
    end if;
  end if;
  if is_theirs then
    insert into audit_log (tenant_id, actor, action, entity, entity_id, changes, ip)
    values (
      new.tenant_id, 'sql:' || session_user, 'customer.link', 'customer', new.id::text,
      jsonb_build_object(
        'fields', jsonb_build_object(
          'stripeCustomerId',
          -- Of a row that is new, `old` is null in every column.
          jsonb_build_object('from', old.stripe_customer_id, 'to', new.stripe_customer_id)
        ),
        'program', nullif(current_setting('application_name'), '')
      ),
      host(inet_client_addr())
    );
  end if;
  return new;
end $$;
