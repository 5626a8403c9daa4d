import { newId } from '../../src/lib/ids.js'

/** A body that the route's schema takes, so that only the guard and the id can refuse; none where the route takes none. */
const BODIES: Readonly<Record<string, unknown>> = {
  'PUT /customers/:id': { email: 'a@example.com' },
  'PATCH /customers/:id': { description: 'changed' },
  'POST /customers': { email: 'a@example.com' },
  'POST /reconciliations': { kind: 'sweep' },
  'POST /conflicts/:id/resolve': { winner: 'local' },
  'POST /duplicates/:id/resolve': { action: 'ignore' },
  'POST /customers/match': { email: 'a@example.com' },
  'POST /orders': { attendees: [{ email: 'a@example.com' }] },
  'PATCH /orders/:id': { status: 'completed' },
  'POST /api-keys': { name: 'Till', role: 'viewer' },
  'POST /api-keys/:id/rotate': {},
  'PUT /tenant/stripe': { webhookSecrets: ['whsec_other'] },
  'PATCH /tenant/settings': { onRemoteDelete: 'archive' },
  'POST /tenants': { slug: 'acme', name: 'Acme' },
  'PATCH /tenants/:id': { name: 'Acme' },
  'PUT /customers/:id/consents/:purpose': { status: 'granted', source: 'web' },
  'POST /customers/:id/merge': { from: newId() },
  'POST /retention-runs': { dryRun: true },
}

/** The body for a route such as `POST /customers`. */
export function bodyOf(route: string): unknown {
  return BODIES[route]
}

/** A route's path, its id taken from `ids` by the path's beginning; an id that nobody has where there is none. */
export function pathOf(url: string, ids: Readonly<Record<string, string>>): string {
  const id = ids[Object.keys(ids).find((prefix) => url.startsWith(prefix)) ?? ''] ?? newId()
  return url.replace(':purpose', 'marketing.email').replace(/:\w+/, id)
}
