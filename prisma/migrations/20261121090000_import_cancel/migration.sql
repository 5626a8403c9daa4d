-- An import may be cancelled. The table has a row per file, so that looking through it for the new check takes no time.
alter table imports drop constraint imports_status_check;
alter table imports add constraint imports_status_check
  check (status in ('uploading', 'queued', 'running', 'succeeded', 'failed', 'cancelled')) not valid;
alter table imports validate constraint imports_status_check;
