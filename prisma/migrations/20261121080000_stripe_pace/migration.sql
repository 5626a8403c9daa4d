-- How fast each Stripe account may be called, shared by all processes where there is no Redis. Unlogged: it changes with each call,
-- so that its writes must cost none to the disk, and a pace that is lost begins anew. `rate_limits` held counts for the same purpose;
-- processes of the release before go on with it while they are replaced.
create unlogged table stripe_pace (
  account text primary key,
  state text not null,
  updated_at timestamptz not null default lockstep_now()
) with (fillfactor = 50);
comment on table stripe_pace is 'The pace of each Stripe account and mode; see src/stripe/pace.ts. May be emptied at any time.';
