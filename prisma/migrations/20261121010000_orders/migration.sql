-- Orders, and who came with each. New tables only: nothing that runs is held up.
create table orders (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null references tenants (id),
  reference text,
  status text not null default 'open',
  currency text,
  total bigint,
  ordered_at timestamptz not null default lockstep_now(),
  created_at timestamptz not null default lockstep_now(),
  updated_at timestamptz not null default lockstep_now(),
  constraint orders_status_check check (status in ('open', 'completed', 'cancelled')),
  constraint orders_total_check check ((total is null) = (currency is null))
);
comment on column orders.reference is 'The name of the order in the system that took it; once per tenant.';
comment on column orders.total is 'In minor units of the currency.';
create unique index orders_reference_idx on orders (tenant_id, reference);
create index orders_tenant_created_idx on orders (tenant_id, created_at desc, id desc);
create index orders_open_idx on orders (tenant_id, id) where status = 'open';

-- No foreign key to `users`: another program may delete a row, and the order stays.
create table order_attendees (
  order_id uuid not null references orders (id) on delete cascade,
  position integer not null,
  tenant_id uuid not null references tenants (id),
  customer_id uuid not null,
  matched_by text not null,
  first_visit boolean not null,
  snapshot jsonb not null,
  primary key (order_id, position),
  constraint order_attendees_matched_by_check check (matched_by in ('id', 'email', 'phone', 'created'))
);
comment on column order_attendees.snapshot is 'The customer as it was when the order was taken; emptied when the person is erased.';
create index order_attendees_customer_idx on order_attendees (tenant_id, customer_id, order_id desc);
