import Stripe from 'stripe'
import type { Metrics } from '../lib/metrics.js'
import { mapStripeError, StripeRateLimitError } from './errors.js'
import { headerOf, isReplay } from './headers.js'
import type { Urgency } from './pace.js'
import type { RateLimiter } from './rate-limiter.js'

/** How long one attempt of one call may take, in milliseconds. A lease outlives it by far. */
export const CALL_TIMEOUT_MS = 10_000

/** One Stripe account as the rest of Lockstep calls it: rate-limited, timed, counted, with our own errors. */
export interface StripeAccount {
  /**
   * Makes one call. `run` is given the SDK and the options to spread into the request (the Connect account).
   * Throws what {@link mapStripeError} makes of a failure, or a RateLimitWaitError.
   *
   * @param operation a name for metrics, such as `customers.create`
   */
  call<T>(
    operation: string,
    run: (stripe: Stripe, options: Stripe.RequestOptions) => Promise<Stripe.Response<T>>,
  ): Promise<Stripe.Response<T>>
}

/**
 * The SDK client. Its own retries are off: the durable queue owns them, with a longer memory and real jitter. (It still
 * repeats a request once after ECONNRESET whatever it is told, which is why every write carries our idempotency key.)
 *
 * @param options.apiBase another Stripe-speaking host, such as the simulator's `http://127.0.0.1:12111`
 */
export function makeStripe(options: { secretKey: string; apiBase?: string | undefined }): Stripe {
  const base = options.apiBase === undefined ? undefined : new URL(options.apiBase)
  return new Stripe(options.secretKey, {
    telemetry: false,
    maxNetworkRetries: 0,
    timeout: CALL_TIMEOUT_MS,
    appInfo: { name: 'lockstep' },
    ...(base === undefined
      ? {}
      : {
          host: base.hostname,
          port: base.port === '' ? (base.protocol === 'http:' ? 80 : 443) : base.port,
          protocol: base.protocol === 'http:' ? 'http' : 'https',
        }),
  })
}

/** Binds the client to one account, for calls of one urgency. */
export function makeStripeAccount(options: {
  stripe: Stripe
  /** A Connect account, or null for the key's own. */
  connectAccount: string | null
  /** The name that its calls are counted under; one for each account and mode. Absent: the Connect account's, or the platform's. */
  name?: string
  /** How soon a call gets its place when not all can have one. */
  urgency: Urgency
  limiter: RateLimiter
  metrics: Metrics
}): StripeAccount {
  const { stripe, connectAccount, urgency, limiter, metrics } = options
  const account = options.name ?? connectAccount ?? 'platform'
  const requestOptions: Stripe.RequestOptions = connectAccount === null ? {} : { stripeAccount: connectAccount }
  return {
    async call(operation, run) {
      const endWait = metrics.stripeWait.startTimer({ urgency })
      await limiter.take(account, operation, urgency).finally(endWait)
      const end = metrics.stripeCallDuration.startTimer({ operation })
      try {
        const response = await run(stripe, requestOptions)
        metrics.stripeCalls.inc({ operation, outcome: 'ok' })
        return response
      } catch (cause) {
        const error = mapStripeError(cause)
        metrics.stripeCalls.inc({ operation, outcome: error.code })
        // Who only finds an object locked is not too fast.
        if (error instanceof StripeRateLimitError && error.limit !== 'object') {
          const { limit, retryAfterSeconds } = error
          await limiter.slow(account, { operation: limit === 'operation' ? operation : null, retryAfterSeconds })
        }
        throw error
      } finally {
        end()
      }
    },
  }
}

/** When Stripe gave the answer, by its own clock (the `Date` header, whole seconds). */
export function answeredAt(response: Stripe.Response<unknown>): Date {
  const date = Date.parse(headerOf(response.lastResponse.headers, 'date') ?? '')
  return new Date(Number.isNaN(date) ? Date.now() : date)
}

/** Whether the answer is an old one, repeated for a known idempotency key: it says what was, not what is. */
export function isReplayed(response: Stripe.Response<unknown>): boolean {
  return isReplay(response.lastResponse.headers)
}
