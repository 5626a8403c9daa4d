-- A link that another program gives or takes away by writing `users.stripe_customer_id` is recorded. Here, since nobody else can tell
-- it from our own: our code writes `stripe_links` first, so that nothing is left to follow, and writes its own entry.
-- Only the function changes: no table is locked.
create or replace function lockstep_follow_link() returns trigger
language plpgsql as $$
declare
  is_theirs boolean := false;
begin
  if tg_op = 'UPDATE' and old.stripe_customer_id is not null then
    update stripe_links set unlinked_at = lockstep_now()
    where tenant_id = old.tenant_id and stripe_customer_id = old.stripe_customer_id and user_id = old.id
      and unlinked_at is null and deleted_at is null;
    is_theirs := found;
  end if;
  if new.stripe_customer_id is not null then
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
        and unlinked_at is null and deleted_at is null
    ) then
      raise exception 'Stripe customer % was deleted in Stripe, or is another user''s', new.stripe_customer_id
        using errcode = 'integrity_constraint_violation',
              hint = 'Set users.stripe_customer_id to null: Lockstep then links or makes a customer.';
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
