-- Search and lists of customers. `user_list` holds what a list is ordered and filtered by, `user_search` what is searched in, both
-- made from `users` and `sync_state` by triggers, so that any program's write shows. They are tables of their own so that
-- nothing here rewrites or indexes `users`, which may be large and in use: all that it sees is a lock of milliseconds while the
-- triggers are added. Users that are there already are filled in afterwards, in small batches (`lockstep_backfill`).
-- Two tables, since they change at different times: the costly trigram index is touched only when the text changes.

do $$
begin
  create extension if not exists pg_trgm;
  create extension if not exists unaccent;
  create extension if not exists btree_gin;
exception when insufficient_privilege or undefined_file or feature_not_supported then
  raise exception 'The extensions pg_trgm, unaccent and btree_gin are needed, and could not be created: %', sqlerrm
    using errcode = 'insufficient_privilege',
          hint = 'Have an administrator run in this database: create extension pg_trgm; create extension unaccent; create extension btree_gin;';
end $$;
do $$
begin
  if to_regprocedure('unaccent(text)') is null or to_regprocedure('show_trgm(text)') is null then
    raise exception 'The extensions pg_trgm and unaccent are in a schema that is not on the search_path of this database user'
      using errcode = 'undefined_function', hint = 'alter role … set search_path = public, <that schema>; or move them: alter extension … set schema public;';
  end if;
end $$;

create table user_list (
  user_id uuid primary key,
  tenant_id uuid not null,
  type text not null,
  state text not null,
  sync_status text not null,
  name text collate "C" not null,
  email text collate "C" not null,
  created_at timestamptz not null,
  updated_at timestamptz not null
);
comment on table user_list is 'What customers are ordered and filtered by; kept by triggers on users and sync_state.';
comment on column user_list.name is 'First and last name without case and accents, for sorting: the first 100 characters; empty for none.';
comment on column user_list.email is 'The e-mail in lower case, for sorting: the first 100 characters; empty for none.';
create index user_list_created_idx on user_list (tenant_id, state, created_at, user_id);
create index user_list_updated_idx on user_list (tenant_id, state, updated_at, user_id);
create index user_list_name_idx on user_list (tenant_id, state, name, user_id);
create index user_list_email_idx on user_list (tenant_id, state, email, user_id);
create index user_list_status_idx on user_list (tenant_id, state, sync_status, created_at, user_id);
create index user_list_type_idx on user_list (tenant_id, state, type, created_at, user_id);

create table user_search (
  user_id uuid primary key,
  tenant_id uuid not null,
  created_at timestamptz not null,
  text text not null,
  slips bigint[] not null
);
comment on table user_search is 'What customers are searched in; kept by triggers on users.';
comment on column user_search.created_at is 'As in users: what was found can be put in order before anything else is read of it.';
comment on column user_search.text is 'Name, e-mail, phone, description and metadata values without case and accents; each word follows a space.';
comment on column user_search.slips is 'Hashes by which a word with one slip finds its word; see lockstep_slips.';
-- How common a word is decides how it is found; the usual sample would take every rare one for a common one.
alter table user_search alter column text set statistics 500, alter column slips set statistics 500;
-- The tenant is in the index too: what is common with one must not slow down another.
create index user_search_text_idx on user_search using gin (tenant_id, text gin_trgm_ops);
create index user_search_slips_idx on user_search using gin (slips);

-- How far `user_list` and `user_search` have been filled with the users that were there before. Every start, and
-- `npx lockstep migrate`, goes on with it, in batches that lock a few hundred rows for a moment each.
create table lockstep_backfill (
  name text primary key,
  reached uuid,
  finished_at timestamptz
);

-- Text as it is searched and sorted: without accents, case and superfluous white space.
create function lockstep_fold(value text) returns text
language sql stable strict as $$
  select btrim(regexp_replace(lower(unaccent(normalize(value, nfkc))), '\s+', ' ', 'g'))
$$;

create function lockstep_search_text(u users) returns text
language sql stable as $$
  select ' ' || lockstep_fold(concat_ws(' ',
    u.first_name, u.last_name, u.email,
    -- Parts of an e-mail or of a hyphenated name are words too, and O'Brien is obrien as well.
    case when concat_ws(' ', u.first_name, u.last_name) ~ '[^[:alnum:]\s]' then concat_ws(' ',
      regexp_replace(concat_ws(' ', u.first_name, u.last_name), '[^[:alnum:]]+', ' ', 'g'),
      regexp_replace(concat_ws(' ', u.first_name, u.last_name), '[^[:alnum:]\s]+', '', 'g'))
    end,
    regexp_replace(u.email, '[^[:alnum:]]+', ' ', 'g'),
    u.phone, u.description,
    (select string_agg(value, ' ') from jsonb_each_text(u.metadata))
  ))
$$;

-- The hashes of a text's words, for search with slips: of each word as it is, and without each of its letters, with that letter's
-- place. The first 24 words of 4 to 24 letters; a slip in a number is another number.
create function lockstep_slips(tenant uuid, text text) returns bigint[]
language sql immutable strict as $$
  select array(
    select distinct hashtextextended(token, hashtextextended(tenant::text, 0))
    from (
      select word from regexp_split_to_table(text, '[^[:alnum:]]+') with ordinality as words (word, place)
      where length(word) between 4 and 24 and word !~ '\d'
      group by word order by min(place) limit 24
    ) as words,
    lateral (
      select word as token
      union all
      select i || '-' || left(word, i - 1) || substr(word, i + 1) from generate_series(1, length(word)) as i
    ) as tokens
  )
$$;

-- The hashes of all that a word may stand for, if at most one letter of it is wrong, missing, superfluous or swapped with its
-- neighbour: what overlaps with lockstep_slips of a text is that near to one of its words, and nothing else is.
create function lockstep_near(tenant uuid, word text) returns bigint[]
language sql immutable strict as $$
  select array(
    select distinct hashtextextended(token, hashtextextended(tenant::text, 0))
    from (
      select word as token
      -- a letter is missing
      union all select i || '-' || word from generate_series(1, length(word) + 1) as i
      -- one is superfluous, or wrong
      union all select left(word, i - 1) || substr(word, i + 1) from generate_series(1, length(word)) as i
      union all select i || '-' || left(word, i - 1) || substr(word, i + 1) from generate_series(1, length(word)) as i
      -- two are swapped
      union all select left(word, i - 1) || substr(word, i + 1, 1) || substr(word, i, 1) || substr(word, i + 2)
        from generate_series(1, length(word) - 1) as i
    ) as tokens
  )
$$;

create function lockstep_list_user(u users) returns void
language sql as $$
  insert into user_list (user_id, tenant_id, type, state, sync_status, name, email, created_at, updated_at)
  values (
    u.id, u.tenant_id, u.type, u.state, coalesce((select status from sync_state where user_id = u.id), 'pending'),
    left(coalesce(lockstep_fold(concat_ws(' ', u.first_name, u.last_name)), ''), 100), left(coalesce(lower(u.email), ''), 100),
    u.created_at, u.updated_at
  )
  on conflict (user_id) do update set
    type = excluded.type, state = excluded.state, sync_status = excluded.sync_status, name = excluded.name,
    email = excluded.email, created_at = excluded.created_at, updated_at = excluded.updated_at
$$;

create function lockstep_search_user(u users) returns void
language sql as $$
  insert into user_search (user_id, tenant_id, created_at, text, slips)
  select u.id, u.tenant_id, u.created_at, text, lockstep_slips(u.tenant_id, text) from lockstep_search_text(u) as text
  on conflict (user_id) do update set created_at = excluded.created_at, text = excluded.text, slips = excluded.slips
$$;

create function lockstep_list_changed() returns trigger
language plpgsql as $$
begin
  if tg_op = 'DELETE' then
    delete from user_list where user_id = old.id;
    delete from user_search where user_id = old.id;
    return old;
  end if;
  if tg_op = 'INSERT' or (new.type, new.state, new.first_name, new.last_name, new.email, new.created_at, new.updated_at)
    is distinct from (old.type, old.state, old.first_name, old.last_name, old.email, old.created_at, old.updated_at) then
    perform lockstep_list_user(new);
  end if;
  if tg_op = 'INSERT' or (new.first_name, new.last_name, new.email, new.phone, new.description, new.metadata, new.created_at)
    is distinct from (old.first_name, old.last_name, old.email, old.phone, old.description, old.metadata, old.created_at) then
    perform lockstep_search_user(new);
  end if;
  return new;
end $$;

-- After the trigger that writes `sync_state`: everyone locks users, sync_state, user_list in this order.
create trigger users_960_list after insert or update or delete on users
for each row execute function lockstep_list_changed();

create function lockstep_list_status() returns trigger
language plpgsql as $$
begin
  update user_list set sync_status = new.status where user_id = new.user_id;
  return new;
end $$;

create trigger sync_state_960_list after update of status on sync_state
for each row when (new.status is distinct from old.status) execute function lockstep_list_status();

-- Now that writes are followed, and none is under way: is there anything from before?
insert into lockstep_backfill (name, finished_at)
select 'user_list', case when not exists (select from users) then lockstep_now() end;
