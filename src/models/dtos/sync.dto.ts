import { type Static, Type } from 'typebox'
import { sameJson } from '../../lib/json.js'
import { SYNC_STATUSES, type SyncState } from '../sync-state.js'
import type { SyncedFields } from '../synced-fields.js'
import type { User } from '../user.js'
import { Any, MapOf, Nullable, OneOf, Time } from './parts.js'
import { ConflictSchema, type ConflictSource, toConflict } from './review.dto.js'

const Side = (description: string) =>
  Nullable(
    Type.Object(
      {
        email: Nullable(Type.String()),
        phone: Nullable(Type.String()),
        name: Nullable(Type.String({ description: 'firstName and lastName, joined.' })),
        description: Nullable(Type.String()),
        locale: Nullable(Type.String()),
        address: Any('As in the customer.'),
        shipping: Any('As in the customer.'),
        metadata: MapOf(Type.String()),
      },
      { description },
    ),
  )

/** What each side holds of a customer, and how they stand to each other. */
export const SyncViewSchema = Type.Object(
  {
    customerId: Type.String({ format: 'uuid' }),
    stripeCustomerId: Nullable(Type.String({ examples: ['cus_NffrFeUfNV2Hib'] })),
    status: OneOf(SYNC_STATUSES, {
      description:
        '`pending`: waits for its turn. `in_sync`: both sides agree. `conflict`: someone has to decide. `failed`: given up on until ' +
        'something changes. `detached`: deleted in Stripe. `ignored`: Stripe need not know of it.',
    }),
    settled: Type.Boolean({ description: 'Nothing waits to be carried either way.' }),
    differs: Type.Array(Type.String(), {
      description: 'The fields in which `local` and `remote` differ.',
      examples: [['email', 'metadata.tier']],
    }),
    local: Side('What the row has.'),
    remote: Side('What Stripe was last seen to have; null before it was seen.'),
    base: Side('What both sides last agreed on; null before they did.'),
    remoteAsOf: Nullable(Time('When `remote` was observed, by Stripe’s clock.')),
    syncedAt: Nullable(Time('When both sides last agreed.')),
    revisions: Type.Object(
      {
        customer: Type.Integer({ description: 'The customer’s own revision, as in its ETag.' }),
        local: Type.Integer(),
        localSynced: Type.Integer(),
        remote: Type.Integer(),
        remoteSynced: Type.Integer(),
      },
      { description: 'How many changes each side has seen, and how many of them are settled.' },
    ),
    needsFetch: Type.Boolean({ description: 'The next reconcile reads the Stripe customer.' }),
    attempts: Type.Integer({ description: 'Failed tries in a row.' }),
    nextAttemptAt: Nullable(Time('Not tried again before.')),
    lastError: Nullable(
      Type.Object({
        code: Type.String(),
        message: Type.String(),
        field: Nullable(Type.String()),
        retryable: Type.Boolean(),
        at: Type.String(),
      }),
    ),
    rejected: Type.Array(Type.Object({ field: Type.String(), code: Type.String(), message: Type.String() }), {
      description: 'Fields whose present value Stripe refused; each stays here until it changes.',
    }),
    conflicts: Type.Array(ConflictSchema, { description: 'Open ones first, then the latest.' }),
  },
  { description: 'What each side holds of a customer, and how they stand to each other.' },
)
export type SyncView = Static<typeof SyncViewSchema>

export const SyncQuerySchema = Type.Object(
  {
    waitForRevision: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 2147483647,
        description: 'Answer once this revision of the customer is settled with Stripe, or `timeout` has passed.',
      }),
    ),
    timeout: Type.Optional(
      Type.Integer({ minimum: 0, maximum: 30, default: 10, description: 'How long to wait at most, in seconds.' }),
    ),
  },
  { additionalProperties: false },
)

/** What a {@link SyncView} is made of. */
export interface SyncSource {
  user: User
  state: SyncState
  conflicts: ConflictSource[]
}

/** @param local the row's synced fields in canonical form */
export function toSyncView({ user, state, conflicts }: SyncSource, local: SyncedFields): SyncView {
  const remote = state.remote?.fields ?? null
  return {
    customerId: user.id,
    stripeCustomerId: user.stripeCustomerId,
    status: state.status,
    settled: !state.dirty,
    differs: remote === null ? [] : differences(local, remote),
    local,
    remote,
    base: state.base,
    remoteAsOf: state.remoteAsOf?.toISOString() ?? null,
    syncedAt: state.syncedAt?.toISOString() ?? null,
    revisions: {
      customer: user.revision,
      local: state.localRevision,
      localSynced: state.syncedRevision,
      remote: state.remoteRevision,
      remoteSynced: state.remoteSyncedRevision,
    },
    needsFetch: state.needsFetch,
    attempts: state.attempts,
    nextAttemptAt: state.nextAttemptAt?.toISOString() ?? null,
    lastError: state.lastError,
    rejected: Object.entries(state.rejected).map(([field, { code, message }]) => ({ field, code, message })),
    conflicts: conflicts.map(toConflict),
  }
}

function differences(local: SyncedFields, remote: SyncedFields): string[] {
  const { metadata: localMetadata, ...localPlain } = local
  const { metadata: remoteMetadata, ...remotePlain } = remote
  const keys = [...new Set([...Object.keys(localMetadata), ...Object.keys(remoteMetadata)])].sort()
  return [
    ...Object.keys(localPlain).filter(
      (field) =>
        !sameJson(localPlain[field as keyof typeof localPlain], remotePlain[field as keyof typeof remotePlain]),
    ),
    ...keys.filter((key) => localMetadata[key] !== remoteMetadata[key]).map((key) => `metadata.${key}`),
  ]
}
