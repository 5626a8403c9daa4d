-- What a key may do, where that is less than its role may. The default is a constant, so no row is rewritten.
alter table api_keys add column scopes text[] not null default '{}';
comment on column api_keys.scopes is 'The only permissions of the key; empty: all of its role.';
