import type { FastifyContextConfig, FastifyInstance } from 'fastify'

/** A route of the API as it is declared. */
export interface RouteEntry {
  method: string
  /** Its pattern, such as `/customers/:id`. */
  url: string
  config: FastifyContextConfig
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Every route, for tests and documentation. */
    routeTable: readonly RouteEntry[]
  }
}

/** Notes every route that is registered after it in `app.routeTable`. */
export function collectRoutes(app: FastifyInstance): { methodsOf(path: string): string[] } {
  const table: RouteEntry[] = []
  app.decorate('routeTable', { getter: () => table })
  app.addHook('onRoute', ({ method, url, config }) => {
    for (const one of [method].flat()) table.push({ method: one, url, config: config ?? {} })
  })
  return {
    /** The methods that a path takes; none when there is no such path. */
    methodsOf(path) {
      const methods = table.filter(({ url }) => matches(url, path)).map(({ method }) => method)
      return [...new Set(methods)].sort()
    },
  }
}

function matches(pattern: string, path: string): boolean {
  const expected = pattern.split('/')
  const given = path.split('/')
  if (expected.at(-1) === '*') return false
  return (
    expected.length === given.length &&
    expected.every((part, index) => (part.startsWith(':') ? given[index] !== '' : part === given[index]))
  )
}
