-- Of a row that is deleted right after it was erased, the Stripe customer is still to be deleted, not only marked.

alter table sync_state add column user_erased boolean not null default false;
comment on column sync_state.user_erased is 'Of a row that is gone: whether it was erased before.';

-- As before, but notes of a row that goes whether its person had been erased.
create or replace function lockstep_mark_dirty() returns trigger
language plpgsql as $$
begin
  if tg_op = 'DELETE' then
    update sync_state
    set local_revision = local_revision + 1, user_deleted = true, user_erased = old.state = 'erased', status = 'pending', attempts = 0,
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
      user_deleted = false, user_erased = false,
      status = case when sync_state.status in ('in_sync', 'failed', 'ignored') then 'pending' else sync_state.status end,
      attempts = 0, next_attempt_at = null, enqueued_until = null,
      dirty_since = coalesce(sync_state.dirty_since, lockstep_now()), updated_at = lockstep_now();
  return new;
end $$;
