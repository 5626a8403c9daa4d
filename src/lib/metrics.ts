import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'

const SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20]

/**
 * Every metric that Lockstep exposes at `/metrics`, in one table. Durations are seconds.
 *
 * @param collect sets the gauges; called before each scrape
 */
export function makeMetrics(collect: () => Promise<void> = async () => {}) {
  const registry = new Registry()
  // Before any metric is read: prom-client would read the others while one of them still collects.
  const render = registry.metrics.bind(registry)
  registry.metrics = async () => {
    await collect()
    return render()
  }
  const registers = [registry]
  collectDefaultMetrics({ register: registry })
  return {
    registry,
    httpDuration: new Histogram({
      name: 'lockstep_http_request_duration_seconds',
      help: 'Time to answer an HTTP request.',
      labelNames: ['method', 'route', 'status'],
      buckets: SECONDS,
      registers,
    }),
    webhooks: new Counter({
      name: 'lockstep_webhook_deliveries_total',
      help: 'Deliveries to the webhook by outcome: stored, quarantined, or why it was rejected; of the stored ones, duplicate when filed.',
      labelNames: ['outcome'],
      registers,
    }),
    webhookSkew: new Gauge({
      name: 'lockstep_webhook_clock_skew_seconds',
      help: 'How far this clock was ahead of the time in the latest delivery that one of our secrets signed; below 0: behind.',
      registers,
    }),
    webhookVersions: new Counter({
      name: 'lockstep_webhook_api_version_mismatch_total',
      help: 'Stored events of another API version than the SDK speaks, by that version.',
      labelNames: ['api_version'],
      registers,
    }),
    inboxDepth: new Gauge({
      name: 'lockstep_inbox_events',
      help: 'Events by status pending or failed.',
      labelNames: ['status'],
      registers,
    }),
    inboxAge: new Gauge({ name: 'lockstep_inbox_oldest_seconds', help: 'Age of the oldest pending event.', registers }),
    eventsSettled: new Counter({
      name: 'lockstep_events_settled_total',
      help: 'Events taken from the inbox, by what they came to.',
      labelNames: ['outcome'],
      registers,
    }),
    plainEdits: new Counter({
      name: 'lockstep_plain_edits_total',
      help: 'Edits at Stripe that were carried through together, without a reconcile of their own.',
      registers,
    }),
    eventsMissed: new Counter({
      name: 'lockstep_events_caught_up_total',
      help: 'Events that catch-up found and the webhook had not brought.',
      registers,
    }),
    dirtyUsers: new Gauge({ name: 'lockstep_dirty_users', help: 'Users that wait for a reconcile.', registers }),
    dirtyAge: new Gauge({ name: 'lockstep_dirty_oldest_seconds', help: 'Longest wait of a dirty user.', registers }),
    unhealthyUsers: new Gauge({
      name: 'lockstep_users',
      help: 'Users by a sync status that someone should look at: failed, conflict, detached.',
      labelNames: ['status'],
      registers,
    }),
    reconciles: new Counter({
      name: 'lockstep_reconciles_total',
      help: 'Ended reconciles by outcome.',
      labelNames: ['outcome'],
      registers,
    }),
    reconcileDuration: new Histogram({
      name: 'lockstep_reconcile_duration_seconds',
      help: 'Time of one reconcile.',
      labelNames: ['outcome'],
      buckets: SECONDS,
      registers,
    }),
    reconcileSteps: new Counter({
      name: 'lockstep_reconcile_steps_total',
      help: 'Steps that reconciles took: fetch, apply, push, look-up, intend, create, find-created, delete, settle, forget.',
      labelNames: ['step'],
      registers,
    }),
    settleLatency: new Histogram({
      name: 'lockstep_settle_latency_seconds',
      help: 'Time from the change that made a user dirty until both sides agreed.',
      buckets: SECONDS,
      registers,
    }),
    stripeCalls: new Counter({
      name: 'lockstep_stripe_calls_total',
      help: 'Calls to Stripe by operation and outcome.',
      labelNames: ['operation', 'outcome'],
      registers,
    }),
    stripeCallDuration: new Histogram({
      name: 'lockstep_stripe_call_duration_seconds',
      help: 'Time of one call to Stripe, without the wait for a place.',
      labelNames: ['operation'],
      buckets: SECONDS,
      registers,
    }),
    stripeWait: new Histogram({
      name: 'lockstep_stripe_wait_seconds',
      help: 'Time that a call to Stripe waited for its place, by urgency: interactive, push, sweep.',
      labelNames: ['urgency'],
      buckets: SECONDS,
      registers,
    }),
    stripeRateShare: new Gauge({
      name: 'lockstep_stripe_rate_share',
      help: 'Of the configured rates of calls to Stripe, the least that is permitted: 1, or less after answers of 429.',
      registers,
    }),
    stripeCallsPerChange: new Histogram({
      name: 'lockstep_stripe_calls_per_settled_change',
      help: 'Calls to Stripe that one reconcile needed.',
      buckets: [0, 1, 2, 3, 5, 8],
      registers,
    }),
    conflicts: new Counter({
      name: 'lockstep_conflicts_total',
      help: 'Conflicts found, by reason and winner.',
      labelNames: ['reason', 'winner'],
      registers,
    }),
    queueJobs: new Gauge({
      name: 'lockstep_queue_jobs',
      help: 'Jobs by queue and state.',
      labelNames: ['queue', 'state'],
      registers,
    }),
    jobs: new Counter({
      name: 'lockstep_jobs_total',
      help: 'Ended jobs.',
      labelNames: ['queue', 'outcome'],
      registers,
    }),
    lanePaused: new Gauge({
      name: 'lockstep_lane_paused',
      help: 'Tenants whose key Stripe refuses; their work is kept.',
      registers,
    }),
    shed: new Counter({
      name: 'lockstep_requests_shed_total',
      help: 'Requests answered 503 because there were too many, by part: api, long (exports, uploads), webhook; wait: answered at once instead.',
      labelNames: ['part'],
      registers,
    }),
    listReads: new Counter({
      name: 'lockstep_list_reads_total',
      help: 'Lists and searches where a replica is configured, by where they were read from: primary, replica.',
      labelNames: ['from'],
      registers,
    }),
    replicaLag: new Gauge({
      name: 'lockstep_replica_lag_seconds',
      help: 'How old what the replica has is, at the most.',
      registers,
    }),
    errors: new Counter({
      name: 'lockstep_errors_total',
      help: 'Failures that were caught and will be tried again, by part.',
      labelNames: ['part'],
      registers,
    }),
  } as const
}

export type Metrics = ReturnType<typeof makeMetrics>
