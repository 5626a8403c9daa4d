import type { App } from '../app.js'
import type { Config } from '../config.js'

/** What a person who just started the service needs to know. */
export function banner({ apiUrl, simulatorUrl, newAdminKey }: App, config: Config): string {
  const rows: [string, string][] = []
  if (apiUrl !== null) {
    rows.push(['API', apiUrl], ['Swagger UI', `${apiUrl}/api/docs`], ['Health', `${apiUrl}/health`])
  }
  rows.push([
    'Stripe',
    simulatorUrl === null ? (config.stripe.apiBase ?? 'api.stripe.com') : `simulator at ${simulatorUrl}`,
  ])
  rows.push(['Postgres', config.embedded.postgres ? `embedded, in ${config.dataDir}` : 'DATABASE_URL'])
  rows.push(['Queue', config.queue === 'redis' ? 'Redis' : 'on that Postgres'])
  if (newAdminKey !== null) rows.push(['Admin key', newAdminKey])
  const lines = rows.map(([name, value]) => `  ${name.padEnd(11)} ${value}`)
  const note =
    newAdminKey === null
      ? apiUrl === null
        ? ''
        : '\n  The admin key was shown at the first start. For another: npx lockstep keys create --name me --role admin\n'
      : `\n  The key is shown this once. Keep it: export KEY=${newAdminKey}\n`
  return `\nLockstep ${apiUrl === null ? 'worker ' : ''}is running.\n\n${lines.join('\n')}\n${note}\n  Ctrl-C stops it.\n\n`
}
