-- Imports of customers from files. New tables, and a column of `tenants`, which is small: nothing that runs is held up.
alter table tenants add column import_salt uuid not null default gen_random_uuid();
comment on column tenants.import_salt is 'Goes into the ids of imported customers, so that nobody can tell from an id what the file said.';

create table imports (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null references tenants (id),
  source text not null,
  format text not null,
  on_match text not null,
  dry_run boolean not null default false,
  status text not null,
  bytes bigint not null default 0,
  lines integer not null default 0,
  digest text,
  counts jsonb not null default '{}',
  error jsonb,
  requested_by text not null,
  request_id text,
  ip text,
  lease_token integer not null default 0,
  lease_expires_at timestamptz,
  created_at timestamptz not null default lockstep_now(),
  started_at timestamptz,
  finished_at timestamptz,
  constraint imports_source_check check (source in ('api', 'cli')),
  constraint imports_format_check check (format in ('csv', 'ndjson')),
  constraint imports_on_match_check check (on_match in ('skip', 'update', 'fail')),
  constraint imports_status_check check (status in ('uploading', 'queued', 'running', 'succeeded', 'failed'))
);
comment on column imports.lines is 'How many lines of the file are done; saved in the transaction that wrote their customers.';
comment on column imports.digest is 'SHA-256 of these lines: who goes on with the import must come with the same file.';
create index imports_tenant_idx on imports (tenant_id, created_at desc, id desc);
create index imports_unfinished_idx on imports (created_at) where status in ('uploading', 'queued', 'running');

-- What was uploaded, until it is imported.
create table import_chunks (
  import_id uuid not null references imports (id) on delete cascade,
  position integer not null,
  content bytea not null,
  primary key (import_id, position)
);
-- A file is compressed badly in pieces and read once: keep it as it is.
alter table import_chunks alter column content set storage external;

-- Why lines were refused. Names fields, never values.
create table import_errors (
  import_id uuid not null references imports (id) on delete cascade,
  line integer not null,
  errors jsonb not null,
  primary key (import_id, line)
);

-- Whom a dry run would have made, as hashes, so that a later line of the file finds them.
create table import_seen (
  import_id uuid not null references imports (id) on delete cascade,
  contact text not null,
  primary key (import_id, contact)
);
