-- A key for each person, sealed with the key of the installation. What is kept about a person for the record (conflicts,
-- snapshots, audit) is sealed with it: destroying it makes all of that unreadable, wherever it is, and leaves the counts.
create table person_keys (
  tenant_id uuid not null references tenants (id),
  user_id uuid not null,
  -- Null: destroyed, for good.
  sealed_key text,
  created_at timestamptz not null default lockstep_now(),
  destroyed_at timestamptz,
  primary key (tenant_id, user_id),
  constraint person_keys_destroyed_check check ((sealed_key is null) = (destroyed_at is not null))
);
