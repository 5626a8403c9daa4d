-- What Stripe delivers is stored here first, all that came in together in one row, and acknowledged; a worker then files it as
-- `stripe_events`. One row and one key for a hundred deliveries cost a fifth of a hundred rows with five indexes each, and those are
-- then written once, with what they came to, instead of twice. The rows are short-lived: in their order, by their key, is all that
-- is ever asked. No `tenant_id`: a batch may be of several tenants, and the role of the API has no business here.
create table delivery_batches (
  id bigint generated always as identity primary key,
  count integer not null check (count > 0),
  sealed text not null,
  attempts integer not null default 0,
  error text,
  next_attempt_at timestamptz,
  received_at timestamptz not null default lockstep_now()
);
comment on table delivery_batches is 'The doorstep of the inbox: deliveries that are acknowledged and not yet filed in stripe_events.';
-- What is sealed does not get smaller by compression.
alter table delivery_batches alter column sealed set storage external;
