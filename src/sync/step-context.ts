import type { FieldPatch } from '../models/synced-fields.js'
import type { Tenant } from '../models/tenant.js'
import type { Db } from '../repositories/database.js'
import type { ConflictRecord } from '../repositories/sync-conflicts.js'
import type { Lease } from '../repositories/sync-states.js'
import type { Vault } from '../repositories/vault.js'
import type { StripeCustomerService } from '../services/stripe-customer.service.js'
import type { StripeValidationError } from '../stripe/errors.js'
import type { View } from './decide.js'

/** Every key of ours begins so; events repeat it in `request.idempotency_key`. */
export const KEY_PREFIX = 'lockstep-'

/** What the steps of one reconcile work with. */
export interface StepContext {
  db: Db
  vault: Vault
  lease: Lease
  tenant: Tenant
  customers: StripeCustomerService
  /** Says that a call to Stripe is about to be made. */
  countCall(): void
  /** Notes the fields that Stripe's complaint is about, so that the others go on without them. False: it is about none. */
  reject(error: StripeValidationError, patch: FieldPatch, view: View): Promise<boolean>
  recordConflicts(tx: Db, conflicts: ConflictRecord[]): Promise<void>
  /** The user's Stripe customer was deleted, or redacted. */
  part(stripeCustomerId: string, options?: { isRedacted: boolean }): Promise<void>
}

/** What a step tells the loop beyond what it wrote. */
export interface StepResult {
  /** Stripe was searched for a customer to link: it need not be searched again in this reconcile. */
  lookedUp: boolean
  /** Several would fit; nobody guesses. */
  ambiguous: boolean
}

export const DONE: StepResult = { lookedUp: false, ambiguous: false }
