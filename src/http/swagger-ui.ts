import helmet from '@fastify/helmet'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance } from 'fastify'

/** What of an OpenAPI document matters to a form. */
interface Described {
  paths?: Record<
    string,
    Record<string, { parameters?: { required?: boolean; example?: unknown; description?: string }[] }>
  >
}

/** The page's name for the document that its forms are made from. */
const FOR_FORMS = 'forms'

const LOGO = `<svg xmlns="http://www.w3.org/2000/svg" width="168" height="40" viewBox="0 0 168 40">
<g fill="none" stroke="#7dd3c0" stroke-width="3.5"><circle cx="15" cy="20" r="10"/><circle cx="27" cy="20" r="10"/></g>
<text x="48" y="26.5" fill="#fff" font-family="system-ui,sans-serif" font-size="19" font-weight="600">Lockstep</text></svg>`

/**
 * Serves Swagger UI at `path`, with the document itself at `path`/json and `path`/yaml. Its forms start with what a request needs
 * and no more: an example of a filter would find nobody, and that of an `Idempotency-Key` make the second request a repetition.
 */
export async function serveSwaggerUi(app: FastifyInstance, path: string): Promise<void> {
  await app.register(async (pages) => {
    // Here a browser runs our script. The service speaks plain HTTP behind a proxy, or on this machine: there is nothing to upgrade to.
    await pages.register(helmet, { contentSecurityPolicy: { directives: { upgradeInsecureRequests: null } } })
    await pages.register(swaggerUi, {
      routePrefix: path,
      logo: { type: 'image/svg+xml', content: LOGO, href: path, target: '_self' },
      theme: { title: 'Lockstep API' },
      uiConfig: {
        deepLinking: true,
        persistAuthorization: true,
        tryItOutEnabled: true,
        // This one runs in the browser: it can name nothing of this file.
        requestInterceptor: (request) => {
          if (request.loadSpec) request.url += '?for=forms'
          return request
        },
      },
      transformSpecification: (document, { query }) =>
        (query as { for?: string }).for === FOR_FORMS ? withEmptyForms(document) : document,
    })
  })
}

/** Examples of what may be left out move into the description, where they are read and not sent. */
function withEmptyForms(document: Described): Described {
  for (const path of Object.values(document.paths ?? {})) {
    for (const { parameters = [] } of Object.values(path)) {
      for (const parameter of parameters.filter(({ required, example }) => !required && example !== undefined)) {
        parameter.description = `${parameter.description ?? ''} For example \`${String(parameter.example)}\`.`.trim()
        delete parameter.example
      }
    }
  }
  return document
}
