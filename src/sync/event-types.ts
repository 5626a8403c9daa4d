/** What an event of a type is about, for the inbox. */
export type EventKind = 'snapshot' | 'deleted'

/**
 * The events that Lockstep acts on. Every other type is stored and marked `ignored`. A webhook endpoint needs just these,
 * and catch-up asks for just these (`types` takes up to 20).
 */
export const EVENT_TYPES = {
  'customer.created': 'snapshot',
  'customer.updated': 'snapshot',
  'customer.deleted': 'deleted',
} as const satisfies Record<string, EventKind>

export type HandledEventType = keyof typeof EVENT_TYPES

/** What to do with an event of this type; null: nothing. */
export function kindOf(type: string): EventKind | null {
  return Object.hasOwn(EVENT_TYPES, type) ? EVENT_TYPES[type as HandledEventType] : null
}

/** Stripe shows some events minutes after their `created`, so that long before now nothing counts as read (5 min). */
export const OVERLAP_MS = 5 * 60_000
