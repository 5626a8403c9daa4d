-- What became of people's data, and who had it so: states, consents, retention, merges. New tables, a nullable column and two
-- triggers: nothing that runs is held up for longer than it takes to note them in the catalogue.

-- A customer's states. Whoever writes `users` may say who it is, and why, in its own transaction:
--   select set_config('lockstep.actor', 'importer', true), set_config('lockstep.reason', 'moved away', true);
create table customer_state_changes (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null references tenants (id),
  customer_id uuid not null,
  from_state text,
  to_state text not null,
  actor text not null,
  reason text,
  at timestamptz not null default lockstep_now(),
  constraint customer_state_changes_to_check check (to_state in ('active', 'archived', 'erased', 'deleted'))
);
comment on table customer_state_changes is 'Every state that a customer had, written by the trigger on `users` in the transaction of the change. Append-only.';
comment on column customer_state_changes.from_state is 'Null where the customer began.';
comment on column customer_state_changes.actor is 'Who: a key, a token''s subject, cli, system, stripe; sql for a program that did not say.';
create index customer_state_changes_customer_idx on customer_state_changes (tenant_id, customer_id, at desc, id desc);

create function lockstep_note_state() returns trigger
language plpgsql as $$
declare
  who text := coalesce(nullif(current_setting('lockstep.actor', true), ''), 'sql');
  why text := nullif(current_setting('lockstep.reason', true), '');
begin
  if tg_op = 'DELETE' then
    insert into customer_state_changes (tenant_id, customer_id, from_state, to_state, actor, reason)
    values (old.tenant_id, old.id, old.state, 'deleted', who, why);
    return old;
  end if;
  insert into customer_state_changes (tenant_id, customer_id, from_state, to_state, actor, reason)
  values (new.tenant_id, new.id, case when tg_op = 'UPDATE' then old.state end, new.state, who, why);
  return new;
end $$;

create trigger users_800_note_state_insert after insert on users
for each row execute function lockstep_note_state();
create trigger users_800_note_state_update after update of state on users
for each row when (new.state is distinct from old.state) execute function lockstep_note_state();
create trigger users_800_note_state_delete after delete on users
for each row execute function lockstep_note_state();

-- Consents, as they were given and withdrawn. The present one of a purpose is the latest by `at`; of two at one moment the withdrawal.
create table consent_changes (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null references tenants (id),
  customer_id uuid not null,
  purpose text not null,
  status text not null,
  source text not null,
  version text,
  text text,
  evidence jsonb not null default '{}',
  actor text not null,
  at timestamptz not null default lockstep_now(),
  recorded_at timestamptz not null default lockstep_now(),
  merged_from uuid,
  constraint consent_changes_status_check check (status in ('granted', 'withdrawn')),
  constraint consent_changes_evidence_check check (jsonb_typeof(evidence) = 'object')
);
comment on table consent_changes is 'Consents given and withdrawn. Append-only: only whose it is (a merge) and the evidence (an erasure) may change.';
comment on column consent_changes.at is 'When the person said so; `recorded_at` is when it was written here.';
comment on column consent_changes.text is 'What the person was shown, or its version.';
comment on column consent_changes.merged_from is 'The customer that it was recorded for, where that one was merged into this.';
create index consent_changes_customer_idx on consent_changes (tenant_id, customer_id, purpose, at desc, id desc);
create index consent_changes_recorded_idx on consent_changes (tenant_id, customer_id, recorded_at desc, id desc);

-- History is not rewritten. Whoever removes a whole tenant says so: set_config('lockstep.purge', 'on', true).
create function lockstep_keep_history() returns trigger
language plpgsql as $$
begin
  if coalesce(current_setting('lockstep.purge', true), '') = 'on'
     or tg_op = 'UPDATE' and (to_jsonb(new) - tg_argv::text[]) = (to_jsonb(old) - tg_argv::text[]) then
    return case when tg_op = 'DELETE' then old else new end;
  end if;
  raise exception '% is append-only', tg_table_name
    using errcode = 'integrity_constraint_violation', hint = 'Add a row that says what is so now.';
end $$;
create trigger customer_state_changes_keep before update or delete on customer_state_changes
for each row execute function lockstep_keep_history();
create trigger consent_changes_keep before update or delete on consent_changes
for each row execute function lockstep_keep_history('customer_id', 'merged_from', 'evidence');

-- Runs of the retention policies in `tenants.settings`.
create table retention_runs (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null references tenants (id),
  trigger text not null,
  dry_run boolean not null default false,
  status text not null default 'queued',
  progress jsonb not null default '{}',
  results jsonb not null default '[]',
  error jsonb,
  requested_by text,
  lease_token integer not null default 0,
  lease_expires_at timestamptz,
  created_at timestamptz not null default lockstep_now(),
  started_at timestamptz,
  finished_at timestamptz,
  constraint retention_runs_trigger_check check (trigger in ('api', 'cli', 'schedule')),
  constraint retention_runs_status_check check (status in ('queued', 'running', 'succeeded', 'failed'))
);
create index retention_runs_tenant_idx on retention_runs (tenant_id, created_at desc, id desc);
create index retention_runs_unfinished_idx on retention_runs (status) where status in ('queued', 'running');

-- Two of whom someone said that they are one. Written with the local part of the merge; what is left to do in Stripe is done from it.
create table customer_merges (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null references tenants (id),
  survivor_id uuid not null,
  loser_id uuid,
  survivor_stripe_customer_id varchar(255),
  loser_stripe_customer_id varchar(255),
  duplicate_id uuid,
  delete_loser boolean not null default false,
  status text not null default 'pending',
  fate text,
  filled jsonb not null default '[]',
  conflicts jsonb not null default '[]',
  not_moved jsonb not null default '[]',
  moved jsonb not null default '{}',
  actor text not null,
  attempts integer not null default 0,
  next_attempt_at timestamptz,
  error jsonb,
  created_at timestamptz not null default lockstep_now(),
  finished_at timestamptz,
  constraint customer_merges_status_check check (status in ('pending', 'done')),
  constraint customer_merges_fate_check check (fate in ('marked', 'deleted', 'gone', 'unmarked'))
);
comment on column customer_merges.loser_id is 'The customer that was merged into the survivor; null where the loser was a Stripe customer that no one here had.';
comment on column customer_merges.fate is 'What became of the losing Stripe customer; null while that is to be done, or there is none.';
create unique index customer_merges_loser_idx on customer_merges (loser_id);
create unique index customer_merges_duplicate_idx on customer_merges (duplicate_id);
create index customer_merges_survivor_idx on customer_merges (tenant_id, survivor_id, created_at desc, id desc);
create index customer_merges_pending_idx on customer_merges (next_attempt_at) where status = 'pending';

alter table duplicate_customers add column matched_by text;
comment on column duplicate_customers.matched_by is 'The value that it shares with them: lockstep_id, email or phone.';
