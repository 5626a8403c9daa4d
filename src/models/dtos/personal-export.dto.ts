import { Type } from 'typebox'
import { CustomerSchema } from './customer.dto.js'
import { Any, MapOf, Nullable, OneOf, Time } from './parts.js'

/** Names the form of the file. What is added keeps the name; what would break a reader gets another. */
export const PERSONAL_EXPORT_FORMAT = 'lockstep-personal-data/1'

const records = (description: string) => Type.Array(Any('A record.'), { description })

/** The file that GET /customers/:id/export answers. */
export const PersonalExportSchema = Type.Object(
  {
    format: OneOf([PERSONAL_EXPORT_FORMAT]),
    exportedAt: Time('When it was asked for. Each part is as it was when it was read, moments later.'),
    customer: Nullable({
      ...CustomerSchema,
      description: 'The row, with `billing`; null where another program deleted it.',
    }),
    fieldTimes: MapOf(Type.String(), { description: 'When each field last changed here.' }),
    sync: Any(
      'What both sides last agreed on (`base`), what Stripe was last seen to have (`remote`), and how they stand.',
    ),
    merged: Type.Array(CustomerSchema, { description: 'Customers that were merged into this one.' }),
    stripeLinks: records('Every Stripe customer that was this one’s.'),
    stripeWrites: records('What was written to Stripe; kept for 40 days.'),
    events: records('Stripe’s events about these Stripe customers, with their payloads.'),
    conflicts: records('Values that could not both win.'),
    duplicates: records('Stripe customers that look like this one.'),
    orders: records('Orders, each with what it keeps of this person. Others who came are left out.'),
    consents: records('All that was consented to and taken back.'),
    states: records('The states it had: who changed them, when and why.'),
    merges: records('Whom it was merged with.'),
    answers: records('Answers kept for `Idempotency-Key`, for 24 hours.'),
    audit: records('What was done with it, and by whom.'),
  },
  { description: 'All that is held about one person.' },
)
