import type { CustomerSort } from '../models/dtos/customer.dto.js'
import type { SyncStatus } from '../models/sync-state.js'
import type { UserState, UserType } from '../models/user.js'
import type { CustomerPosition } from './customer-cursor.js'
import type { Prisma } from './generated/client.js'

/** Which customers to list, all conditions together. Of the times, `From` is inclusive and `To` exclusive. */
export interface CustomerFilter {
  email?: string
  phone?: string
  type?: UserType
  /** Absent: any. */
  state?: UserState
  syncStatus?: SyncStatus
  stripeCustomerId?: string
  createdFrom?: Date
  createdTo?: Date
  updatedFrom?: Date
  updatedTo?: Date
}

/** Further conditions, by which a search narrows a list. */
export interface Narrowing {
  /** On `user_search s`. */
  search: Prisma.Sql
  /** What is in the text of all that `search` finds; null where nothing is. */
  pieces: string[] | null
  /** On `user_search s`: finds a part of what `search` finds, and sooner; null where there is no such condition. */
  spelled: Prisma.Sql | null
  /** On `user_list l`. */
  list: Prisma.Sql[]
  /** Whether `list` names few rows that an index finds. */
  isPointed: boolean
  plan: SearchPlan
}

/** What is expected of a search, by the planner's statistics. It may err, which costs time only. */
export interface SearchPlan {
  /** How many users are found, of how many that are searched, all tenants together. */
  found: number
  all: number
  /** How many of those found are found by {@link Narrowing.spelled}. */
  spelled: number
  /** However evenly the matches are spread, looking through the first of an order would not fill the page. */
  isThin: boolean
  /** Looking through the first of this order would most likely not fill it: gathering at once saves that time. */
  isRare: boolean
  /** So few that the planner needs no telling to go by the index. */
  isSure: boolean
  /** Most searched users are this tenant's: its part of the index takes longer to read than to pass the others over. */
  isMain: boolean
}

/** One place in the order of a list. */
export type Hit = Omit<CustomerPosition, 'tier'>

/** In which order, from where, and at most how many. */
export interface Stretch {
  order: ListOrder
  limit: number
  after: Hit | null
  within?: KeyRange
}

/** Keys of an order by text: from the first on, and before the second; null where it is open. */
export interface KeyRange {
  from: string | null
  to: string | null
}

/** An order of `user_list`; the id makes it total. */
export interface ListOrder {
  column: 'created_at' | 'updated_at' | 'name' | 'email'
  isDescending: boolean
}

/** How each sort reads; a search ordered by relevance is newest first within what is equally relevant. */
export const LIST_ORDERS = {
  '-createdAt': { column: 'created_at', isDescending: true },
  createdAt: { column: 'created_at', isDescending: false },
  '-updatedAt': { column: 'updated_at', isDescending: true },
  updatedAt: { column: 'updated_at', isDescending: false },
  name: { column: 'name', isDescending: false },
  '-name': { column: 'name', isDescending: true },
  email: { column: 'email', isDescending: false },
  '-email': { column: 'email', isDescending: true },
  relevance: { column: 'created_at', isDescending: true },
} as const satisfies Record<CustomerSort, ListOrder>

/** Whether the order's column is a time. */
export function isTimeOrder({ column }: ListOrder): boolean {
  return column === 'created_at' || column === 'updated_at'
}

/** Whether a filter names one user, or few, by itself. */
export function isPointed({ email, phone, stripeCustomerId }: CustomerFilter): boolean {
  return [email, phone, stripeCustomerId].some((value) => value !== undefined)
}
