/** One way to break the service. */
export interface Mutation {
  name: string
  /** What is replaced where; each text must be there exactly once, so that a mutation cannot outlive the code that it breaks. */
  edits: readonly { file: string; find: string; replace: string }[]
}

const MIGRATION = 'prisma/migrations/20261121110000_lighter_writes/migration.sql'

/** Known ways of getting a two-way sync wrong. Each must break a rule of the specification within 1,000 seeds. */
export const MUTATIONS: readonly Mutation[] = [
  {
    name: 'creates carry no idempotency key',
    edits: [
      {
        file: 'src/services/stripe-customer.service.ts',
        find: 'stripe.customers.create(data, { ...options, idempotencyKey })',
        replace: 'stripe.customers.create(data, { ...options })',
      },
    ],
  },
  {
    name: 'a create without an answer is tried again under a new key',
    edits: [
      {
        file: 'src/sync/create.ts',
        find: 'if (!(error instanceof StripeValidationError)) throw error',
        replace: `if (!(error instanceof StripeValidationError)) {
        await giveUp(intent)
        throw error
      }`,
      },
    ],
  },
  {
    name: 'the base does not follow',
    edits: [
      {
        file: 'src/sync/update.ts',
        find: 'base: withPatch(now.base ?? step.base, step.patch),',
        replace: 'base: now.base ?? step.base,',
      },
      {
        file: 'src/sync/decide.ts',
        find: 'const agreed = withPatch(base, merged.agreed)',
        replace: 'const agreed = base',
      },
    ],
  },
  {
    name: 'the lease is ignored',
    edits: [
      {
        file: 'src/repositories/sync-states.ts',
        find: 'where user_id = $1 and (lease_expires_at is null or lease_expires_at <= lockstep_now())',
        replace: 'where user_id = $1',
      },
      {
        file: 'src/repositories/sync-states.ts',
        find: 'update sync_state set lease_token = lease_token + 1,\n',
        replace: 'update sync_state set lease_token = lease_token,\n',
      },
    ],
  },
  {
    name: 'the fencing token is not checked',
    edits: [
      {
        file: 'src/repositories/sync-states.ts',
        find: 'where tenant_id = $1 and user_id = $2 and lease_token = $3 returning user_id`,\n    [lease.tenantId, lease.userId, lease.token, ...params],',
        replace:
          'where tenant_id = $1 and user_id = $2 and $3::integer > 0 returning user_id`,\n    [lease.tenantId, lease.userId, lease.token, ...params],',
      },
      {
        file: 'src/repositories/sync-states.ts',
        find: 'where s.user_id = before.user_id and s.tenant_id = $1 and s.user_id = $2 and s.lease_token = $3',
        replace: 'where s.user_id = before.user_id and s.tenant_id = $1 and s.user_id = $2 and $3::integer > 0',
      },
      {
        file: 'src/repositories/sync-states.ts',
        find: 'where tenant_id = $1 and user_id = $2 and lease_token = $3 and remote_revision = $4 returning user_id`',
        replace:
          'where tenant_id = $1 and user_id = $2 and $3::integer > 0 and remote_revision >= $4 returning user_id`',
      },
      {
        file: 'src/sync/update.ts',
        find: 'if (now === null || now.leaseToken !== lease.token) throw',
        replace: 'if (now === null) throw',
      },
    ],
  },
  {
    name: 'events are applied as they arrive',
    edits: [
      {
        file: 'src/sync/observe.ts',
        find: "if (lead < -MARGIN_MS) return { is: 'stale', base: settledBase }",
        replace: '',
      },
      {
        file: 'src/sync/observe.ts',
        find: "if (lead <= MARGIN_MS) return { is: 'hint', times }",
        replace: '',
      },
      {
        file: 'src/sync/observe.ts',
        find: "if (snapshot.kind === 'event' && !isNext)",
        replace: "if (snapshot.kind === 'list' && !isNext)",
      },
    ],
  },
  {
    name: 'an event of the same second counts as later',
    edits: [
      {
        file: 'src/sync/observe.ts',
        find: "if (lead <= MARGIN_MS) return { is: 'hint', times }",
        replace: "if (lead < 0) return { is: 'hint', times }",
      },
    ],
  },
  {
    name: 'an event that comes twice takes effect twice',
    edits: [
      {
        file: 'src/repositories/stripe-events.ts',
        find: 'on conflict (tenant_id, id) do nothing returning tenant_id as "tenantId", id`',
        replace: `on conflict (tenant_id, id) do update set status = 'pending' returning tenant_id as "tenantId", id\``,
      },
      {
        file: 'src/sync/observe.ts',
        find: "if (lead < -MARGIN_MS) return { is: 'stale', base: settledBase }",
        replace: '',
      },
      {
        file: 'src/sync/observe.ts',
        find: "if (lead <= MARGIN_MS) return { is: 'hint', times }",
        replace: "if (lead <= MARGIN_MS && lead >= -MARGIN_MS) return { is: 'hint', times }",
      },
    ],
  },
  {
    name: 'the dirty mark is cleared for changes that were not seen',
    edits: [
      {
        file: 'src/repositories/sync-states.ts',
        find: 'update sync_state s set synced_revision = $4, remote_synced_revision = $5,',
        replace:
          'update sync_state s set synced_revision = greatest(s.local_revision, $4), remote_synced_revision = greatest(s.remote_revision, $5),',
      },
    ],
  },
  {
    name: 'an echo marks its user dirty for ever',
    edits: [
      {
        file: 'src/repositories/sync-states.ts',
        find: 'update sync_state s set synced_revision = $4, remote_synced_revision = $5,',
        replace: 'update sync_state s set synced_revision = $4, remote_synced_revision = $5 - 1,',
      },
    ],
  },
  {
    name: 'metadata is replaced whole',
    edits: [
      {
        file: 'src/sync/update.ts',
        find: 'const metadata = new Map(Object.entries(user.metadata))',
        replace: 'const metadata = new Map<string, string>()',
      },
    ],
  },
  {
    name: 'catch-up moves its cursor before it has stored the events',
    edits: [
      {
        file: 'src/sync/catch-up.ts',
        find: 'await readWindow(options, start, end < now ? end : null)',
        replace: `if (!dryRun) await advanceEventsReadThrough(db, tenant.id, new Date(now + WINDOW_MS))
    await readWindow(options, start, end < now ? end : null)`,
      },
    ],
  },
  {
    name: 'a delivery is acknowledged whether or not it was stored',
    edits: [
      {
        file: 'src/sync/inbox.ts',
        find: 'await options.storeDelivery({ tenantId: (owner ?? tenant).id, isQuarantined, text })',
        replace: 'await options.storeDelivery({ tenantId: (owner ?? tenant).id, isQuarantined, text }).catch(() => {})',
      },
    ],
  },
  {
    name: 'an edit that our own write overwrote is not noticed',
    edits: [
      {
        file: 'src/sync/drain.ts',
        find: 'if (user !== null) await settleOverwritten(',
        replace: "if (user !== null && ownWrite.kind === 'delete') await settleOverwritten(",
      },
    ],
  },
  {
    name: 'conflicts that the policy settles are not recorded',
    edits: [
      {
        file: 'src/sync/steps.ts',
        find: 'const added = await recordConflicts(tx, vault, tenant.id, lease.userId, conflicts)',
        replace:
          'const added = await recordConflicts(tx, vault, tenant.id, lease.userId, conflicts.slice(conflicts.length))',
      },
    ],
  },
  {
    name: 'the deletion of a Stripe customer is forgotten',
    edits: [
      {
        file: 'src/repositories/stripe-links.ts',
        find: 'do update set deleted_at = coalesce(l.deleted_at, excluded.deleted_at)',
        replace: 'do update set deleted_at = l.deleted_at',
      },
    ],
  },
  {
    name: 'a customer that was asked about goes to the one who is left',
    edits: [
      {
        file: 'src/sync/adopt.ts',
        find: 'return candidates.length > 1 || (candidates.length === 1 && asked.length > 0)',
        replace: 'return candidates.length > 1 || (candidates.length > 1 && asked.length > 0)',
      },
    ],
  },
  {
    name: 'metadata of other systems is taken for ours',
    edits: [
      {
        file: 'src/sync/fields.ts',
        find: 'return !key.startsWith(FACT_PREFIX) && !foreignPrefixes.some((prefix) => key.startsWith(prefix))',
        replace: 'return !key.startsWith(FACT_PREFIX) && foreignPrefixes.length >= 0',
      },
    ],
  },
  {
    name: 'an event of a Connect account is filed under the platform',
    edits: [
      {
        file: 'src/sync/inbox.ts',
        find: 'if (account === null || account === tenant.stripeAccount) return tenant',
        replace: 'if (account === null || account !== tenant.id) return tenant',
      },
    ],
  },
  {
    name: 'the trigger does not see metadata',
    edits: [
      {
        file: MIGRATION,
        find: 'if new.metadata is distinct from old.metadata then',
        replace: 'if false then',
      },
    ],
  },
]
