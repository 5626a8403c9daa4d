-- A write that the sync settles in the same transaction (`lockstep.agreed`, see `updateAgreedUsers`) does not make the user dirty
-- first: that would write `sync_state` and `user_list` twice for nothing. Everybody else's write does, as before.
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
  if tg_op = 'UPDATE' and coalesce(current_setting('lockstep.agreed', true), '') = 'on' then
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
