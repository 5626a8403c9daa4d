import { type Static, Type } from 'typebox'
import { type CustomerMerge, MERGE_FATES } from '../customer-merge.js'
import { Any, Id, Nullable, OneOf, PAGE_QUERY, PageOf, Time } from './parts.js'

const DeleteLoser = Type.Optional(
  Type.Boolean({
    default: false,
    description:
      'Delete the losing Stripe customer, for good, unless it has payment methods, a balance, a discount or was ever billed. Else it is ' +
      'kept and marked. Needs the permission `customers:erase`.',
  }),
)

/** The body of POST /customers/:id/merge. */
export const MergeInputSchema = Type.Object(
  { from: Id('The customer that is to go into this one, and be archived.'), deleteLoser: DeleteLoser },
  { additionalProperties: false, examples: [{ from: '019a9d6c-5a0e-7c52-9b1f-0d6a4f1e2b3c' }] },
)
export type MergeInput = Static<typeof MergeInputSchema>

/** What `merge` takes in POST /duplicates/:id/resolve. */
export const MERGE_DUPLICATE = {
  survivor: Type.Optional(
    OneOf(['linked', 'duplicate'] as const, {
      description:
        'With `merge`: whose Stripe customer and values stay: the customer’s own (`linked`), or the one that looks like it. The other one’s ' +
        'values fill the gaps.',
    }),
  ),
  deleteLoser: DeleteLoser,
}

const Side = (description: string) =>
  Type.Object(
    {
      customerId: Nullable(Type.String({ format: 'uuid' })),
      stripeCustomerId: Nullable(Type.String({ examples: ['cus_NffrFeUfNV2Hib'] })),
    },
    { description },
  )

/** What a merge came to. */
export const MergeSchema = Type.Object(
  {
    id: Type.String({ format: 'uuid' }),
    status: OneOf(['pending', 'done'] as const, {
      description:
        '`pending`: the losing Stripe customer is still to be marked or deleted; it is tried until it is done.',
    }),
    survivor: Side('Who it is from now on.'),
    loser: Side('Who it was as well. A Stripe customer that no one here had has no `customerId`.'),
    fate: Nullable(
      OneOf(MERGE_FATES, {
        description:
          'What became of the losing Stripe customer. `marked`: its metadata `lockstep_merged_into` names the survivor. `gone`: it was not ' +
          'there any more. `unmarked`: Stripe refused the mark. Null: nothing yet, or there is none.',
      }),
    ),
    filled: Type.Array(Type.String(), {
      description: 'Fields that the survivor had from the loser.',
      examples: [['phone', 'metadata.tier']],
    }),
    conflicts: Type.Array(
      Type.Object({ field: Type.String(), survivor: Any('This stays.'), loser: Any('This is on the loser only.') }),
      { description: 'Where both had a value. Nothing was overwritten.' },
    ),
    notMoved: Type.Array(Type.Object({ what: Type.String(), why: Type.String() }), {
      description: 'What stays with the losing Stripe customer, and why.',
      examples: [[{ what: 'balance', why: 'Stripe cannot move a balance: adjust both by hand.' }]],
    }),
    moved: Type.Object({
      orders: Type.Integer({ description: 'Places in orders that are the survivor’s now.' }),
      consents: Type.Integer({ description: 'Entries of the history of consents that are the survivor’s now.' }),
    }),
    error: Nullable(Type.Object({ code: Type.String(), message: Type.String() })),
    actor: Type.String({ description: 'Who said that they are one.' }),
    createdAt: Time('When.'),
    finishedAt: Nullable(Time('When it was done in Stripe too.')),
  },
  { description: 'Two of whom someone said that they are one.' },
)
export type Merge = Static<typeof MergeSchema>
export const MergePageSchema = PageOf(MergeSchema)
export const MergeQuerySchema = Type.Object({ ...PAGE_QUERY }, { additionalProperties: false })

/** The row as the API answers it. */
export function toMerge(row: CustomerMerge): Merge {
  const { id, status, fate, filled, conflicts, notMoved, moved, error, actor, createdAt, finishedAt } = row
  return {
    id,
    status,
    survivor: { customerId: row.survivorId, stripeCustomerId: row.survivorStripeCustomerId },
    loser: { customerId: row.loserId, stripeCustomerId: row.loserStripeCustomerId },
    fate,
    filled,
    conflicts,
    notMoved,
    moved,
    error: status === 'done' ? null : error,
    actor,
    createdAt: createdAt.toISOString(),
    finishedAt: finishedAt?.toISOString() ?? null,
  }
}
