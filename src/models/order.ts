import type { User, UserType } from './user.js'

export const ORDER_STATUSES = ['open', 'completed', 'cancelled'] as const
export type OrderStatus = (typeof ORDER_STATUSES)[number]

/** How an attendee of an order came to its customer: named by id, found by contact, or new. */
export const MATCHED_BY = ['id', 'email', 'phone', 'created'] as const
export type MatchedBy = (typeof MATCHED_BY)[number]

/** A customer as it was when the order was taken, with what the order gave and it lacked. All null once the person was erased. */
export interface CustomerSnapshot {
  type: UserType
  firstName: string | null
  lastName: string | null
  email: string | null
  phone: string | null
}

/** Who came with an order. */
export interface Attendee {
  customerId: string
  matchedBy: MatchedBy
  /** The customer had no order before this one. */
  isFirstVisit: boolean
  snapshot: CustomerSnapshot
}

/** An order, by whichever system took it. */
export interface Order {
  id: string
  /** Its name in that system. */
  reference: string | null
  status: OrderStatus
  /** ISO 4217, in lower case as Stripe has it; null with `total`. */
  currency: string | null
  /** Minor units. */
  total: number | null
  orderedAt: Date
  createdAt: Date
  updatedAt: Date
  attendees: Attendee[]
}

/** What of a customer an order keeps. */
export function snapshotOf({ type, firstName, lastName, email, phone }: User): CustomerSnapshot {
  return { type, firstName, lastName, email, phone }
}
