-- Search and lists of customers. `user_list` holds what a list is ordered and filtered by, `user_search` what is searched in, both
-- made from `users` and `sync_state` by triggers, so that any program's write shows. They are tables of their own so that
-- nothing here rewrites or indexes `users`, which may be large and in use: all that it sees is a lock of milliseconds while the
-- triggers are added. Users that are there already are filled in afterwards, in small batches (`lockstep_backfill`).
-- Two tables, since they change at different times: the costly trigram index is touched only when the text changes. What is made
-- of a statement's rows is made at once: called row by row, the functions take four times as long.

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
  type text not null,
  state text not null,
  created_at timestamptz not null,
  name text collate "C" not null,
  email text collate "C" not null,
  text text not null,
  words bigint[] not null
);
comment on table user_search is 'What customers are searched in; kept by triggers on users.';
comment on column user_search.state is 'As in user_list, like type, created_at, name and email: most searches need not look there.';
comment on column user_search.text is 'Name, e-mail, phone, description and metadata values without case and accents; each word follows a space.';
comment on column user_search.words is 'Hashes of the words that may be meant by one with a slip; see search_words.';
-- How common a word is decides how it is found; the usual sample would take every rare one for a common one.
alter table user_search alter column text set statistics 500, alter column words set statistics 500;
-- One index for all: of conditions that one scan takes together, the rare ones let it skip most of what the common ones have.
-- The tenant is in it too: what is common with one must not slow down another.
create index user_search_idx on user_search using gin (tenant_id, text gin_trgm_ops, words);

-- By which slips each word is found. Many users share a word, so that this stays small, and a user costs few index entries.
-- Without a unique index on purpose: a writer never waits for another one's words; one that is here twice does no harm.
-- Only hashes, salted by the tenant, so that nothing here can be read. The housekeeping removes what nobody has any more.
create table search_words (
  id uuid primary key default lockstep_uuidv7(),
  tenant_id uuid not null,
  word bigint not null,
  slips bigint[] not null,
  unused_since timestamptz
);
comment on table search_words is 'The words of each tenant''s users, as hashes; see lockstep_slips.';
comment on column search_words.unused_since is 'Nobody had it then. A writer takes it for missing, and a day later it goes if still nobody has it.';
create index search_words_word_idx on search_words (word);
create index search_words_slips_idx on search_words using gin (slips);

-- How far `user_list` and `user_search` have been filled with the users that were there before. Every start, and
-- `npx lockstep migrate`, goes on with it, in batches that lock a few hundred rows for a moment each.
create table lockstep_backfill (
  name text primary key,
  reached uuid,
  finished_at timestamptz
);

-- Text as it is searched and sorted: without accents, case and superfluous white space. Plain ASCII, known by its length, has none.
create function lockstep_fold(value text) returns text
language sql stable strict as $$
  select btrim(regexp_replace(
    lower(case when octet_length(value) = length(value) then value else unaccent(normalize(value, nfkc)) end), '\s+', ' ', 'g'
  ))
$$;

create function lockstep_word_hash(tenant uuid, token text) returns bigint
language sql immutable strict as $$
  select hashtextextended(token, hashtextextended(tenant::text, 0))
$$;

-- The words of a text that may be meant by one with a slip: the first 24 of 4 to 24 letters; a slip in a number is another number.
create function lockstep_words(text text) returns text[]
language sql immutable strict as $$
  select array(
    select word from regexp_split_to_table(text, '[^[:alnum:]]+') with ordinality as words (word, place)
    where length(word) between 4 and 24 and word !~ '\d'
    group by word order by min(place) limit 24
  )
$$;

-- The hashes by which a word is found: of itself, and without each of its letters, with that letter's place.
create function lockstep_slips(tenant uuid, word text) returns bigint[]
language sql immutable strict as $$
  select array(
    select distinct lockstep_word_hash(tenant, token)
    from (
      select word as token
      union all
      select i || '-' || left(word, i - 1) || substr(word, i + 1) from generate_series(1, length(word)) as i
    ) as tokens
  )
$$;

-- The hashes of all that a word may stand for, if at most one letter of it is wrong, missing, superfluous or swapped with its
-- neighbour: what overlaps with lockstep_slips of a word is that near to it, and nothing else is.
create function lockstep_near(tenant uuid, word text) returns bigint[]
language sql immutable strict as $$
  select array(
    select distinct lockstep_word_hash(tenant, token)
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

-- What is called with ids goes by indexes: a plan made while the tables were empty would read them row by row when they are not.

-- Enters these users into `user_list`, or brings what is there up to date.
create function lockstep_list_users(ids uuid[]) returns void
language sql set enable_seqscan = off as $$
  insert into user_list (user_id, tenant_id, type, state, sync_status, name, email, created_at, updated_at)
  select
    u.id, u.tenant_id, u.type, u.state, coalesce((select status from sync_state where user_id = u.id), 'pending'),
    left(coalesce(lockstep_fold(concat_ws(' ', u.first_name, u.last_name)), ''), 100), left(coalesce(lower(u.email), ''), 100),
    u.created_at, u.updated_at
  from users u where u.id = any(ids)
  on conflict (user_id) do update set
    type = excluded.type, state = excluded.state, sync_status = excluded.sync_status, name = excluded.name,
    email = excluded.email, created_at = excluded.created_at, updated_at = excluded.updated_at
$$;

-- Enters these users into `user_search`, or brings what is there up to date, and their words into `search_words`.
create function lockstep_search_users(ids uuid[]) returns void
language sql set enable_seqscan = off as $$
  with entered as (
    insert into user_search (user_id, tenant_id, type, state, created_at, name, email, text, words)
    select
      id, tenant_id, type, state, created_at, left(coalesce(lockstep_fold(names), ''), 100), left(coalesce(lower(email), ''), 100), text,
      array(select lockstep_word_hash(tenant_id, word) from unnest(lockstep_words(text)) as word)
    from (
      select u.id, u.tenant_id, u.type, u.state, u.created_at, u.email, u.names, ' ' || lockstep_fold(concat_ws(' ',
        u.names, u.email,
        -- Parts of an e-mail or of a hyphenated name are words too, and O'Brien is obrien as well.
        case when u.names ~ '[^[:alnum:]\s]' then concat_ws(' ',
          regexp_replace(u.names, '[^[:alnum:]]+', ' ', 'g'), regexp_replace(u.names, '[^[:alnum:]\s]+', '', 'g'))
        end,
        regexp_replace(u.email, '[^[:alnum:]]+', ' ', 'g'),
        u.phone, u.description,
        (select string_agg(value, ' ') from jsonb_each_text(u.metadata))
      )) as text
      from (select *, concat_ws(' ', first_name, last_name) as names from users where id = any(ids) offset 0) as u
      offset 0
    ) as texts
    on conflict (user_id) do update set
      type = excluded.type, state = excluded.state, created_at = excluded.created_at, name = excluded.name,
      email = excluded.email, text = excluded.text, words = excluded.words
    returning tenant_id, text, words
  ),
  missing as (
    select distinct on (hash) tenant_id, hash, text
    from (select tenant_id, text, unnest(words) as hash from entered) as used
    where (select true from search_words w where w.word = used.hash and w.unused_since is null limit 1) is null
  )
  insert into search_words (tenant_id, word, slips)
  select tenant_id, hash, lockstep_slips(tenant_id, word)
  from missing, unnest(lockstep_words(text)) as word
  where lockstep_word_hash(tenant_id, word) = hash
$$;

-- Once for each statement, with all its rows. What did not change is told by comparing sets: a join could be planned for one row
-- and then be run for thousands.
create function lockstep_list_inserted() returns trigger
language plpgsql as $$
declare
  ids uuid[] := array(select id from new_users);
begin
  if ids <> '{}' then
    perform lockstep_list_users(ids);
    perform lockstep_search_users(ids);
  end if;
  return null;
end $$;

create function lockstep_list_updated() returns trigger
language plpgsql as $$
declare
  ids uuid[];
begin
  ids := array(
    select id from (
      select id, type, state, first_name, last_name, email, created_at, updated_at from new_users
      except select id, type, state, first_name, last_name, email, created_at, updated_at from old_users
    ) as changed
  );
  if ids <> '{}' then perform lockstep_list_users(ids); end if;
  ids := array(
    select id from (
      select id, type, state, first_name, last_name, email, phone, description, metadata, created_at from new_users
      except select id, type, state, first_name, last_name, email, phone, description, metadata, created_at from old_users
    ) as changed
  );
  if ids <> '{}' then perform lockstep_search_users(ids); end if;
  return null;
end $$;

create function lockstep_list_deleted() returns trigger
language plpgsql set enable_seqscan = off as $$
declare
  ids uuid[] := array(select id from old_users);
begin
  if ids <> '{}' then
    delete from user_list where user_id = any(ids);
    delete from user_search where user_id = any(ids);
  end if;
  return null;
end $$;

-- After the triggers that write `sync_state`, which fire for each row: everyone locks users, sync_state, user_list in this order.
create trigger users_960_list_insert after insert on users
referencing new table as new_users for each statement execute function lockstep_list_inserted();
create trigger users_960_list_update after update on users
referencing old table as old_users new table as new_users for each statement execute function lockstep_list_updated();
create trigger users_960_list_delete after delete on users
referencing old table as old_users for each statement execute function lockstep_list_deleted();

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
