-- Of events that nothing is done about only what they are about is kept from now on; what was kept of earlier ones goes. Nobody else writes
-- these rows, so nothing waits for this, however long it takes; no table is locked.
update stripe_events set payload = '{}' where status in ('ignored', 'quarantined') and payload <> '{}';
