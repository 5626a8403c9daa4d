import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { makeMetrics } from '../src/lib/metrics.js'
import { openApi } from './helpers/api.js'
import { envExample, pathOf, withEnvTable } from './helpers/docs.js'
import { spawnSource } from './helpers/source-process.js'

const DOCUMENTS = [
  'README.md',
  'CHANGELOG.md',
  'src/sync/README.md',
  'src/simulator/README.md',
  'test/simulation/README.md',
] as const
const read = (file: string) => readFileSync(pathOf(file), 'utf8')
const readme = read('README.md')
const REGENERATE = 'run: npx tsx test/helpers/docs.ts'

/** What the pattern's first group finds, each once, sorted. */
function named(text: string, pattern: RegExp): string[] {
  return [...new Set([...text.matchAll(pattern)].map((match) => match[1] ?? ''))].sort()
}

/** What a text names and `known` lacks. */
function unknown(text: string, pattern: RegExp, known: readonly string[]): string[] {
  return named(text, pattern).filter((name) => !known.includes(name))
}

/** The anchors of a document's headings, as GitHub makes them. */
function anchorsOf(text: string): string[] {
  return named(text, /^#+ (.+)$/gm).map((title) =>
    title
      .toLowerCase()
      .replace(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  )
}

/** Links, source paths and bare file names (beside the document) that lead nowhere. */
function deadPaths(file: string, text: string): string[] {
  const links = named(text, /\]\((?!https?:)([^)]+)\)/g).filter((link) => {
    const [path = '', anchor] = link.split('#')
    const target = path === '' ? file : join(dirname(file), path)
    if (!existsSync(pathOf(target))) return true
    return anchor !== undefined && !anchorsOf(path === '' ? text : read(target)).includes(anchor)
  })
  const sources = named(text, /`((?:src|test|prisma)\/[\w./-]*)`/g).filter((path) => !existsSync(pathOf(path)))
  const neighbours = named(text, /(?<![\w/.-])([a-z][a-z-]*\.ts)\b/g).filter(
    (name) => !existsSync(pathOf(join(dirname(file), name))),
  )
  return [...links, ...sources, ...neighbours]
}

/** The routes of a table, as `GET /customers/:id`. */
function routesOf(text: string): string[] {
  return named(text, /^\| `((?:GET|POST|PUT|PATCH|DELETE) \/[^`?]*)` \|/gm)
}

/** The commands of a text, as `keys create`. Several words only where the command has commands of its own. */
function commandsOf(text: string): string[] {
  return named(text, /npx lockstep ((?:(?:audit|keys|privacy|settings|tenants) )?[a-z-]+)/g)
}

/** The options that the rows of commands in a table name, as `reconcile --dry-run`. */
function optionsOf(text: string): string[] {
  return [...text.matchAll(/^\| `npx lockstep ([a-z -]+)` \| (.*)$/gm)].flatMap(([, command, about = '']) =>
    named(about, /(--[a-z-]+)/g).map((option) => `${command} ${option}`),
  )
}

/** What `lockstep [command] --help` says it takes: commands and options. */
async function helpOf(command = ''): Promise<{ commands: string[]; options: string[] }> {
  const child = spawnSource(['src/cli.ts', ...command.split(' ').filter(Boolean), '--help'])
  const stdout = await text(child.stdout)
  return {
    commands: named(stdout.split('\nCommands:')[1] ?? '', /^ {2}([a-z-]+)/gm).filter((name) => name !== 'help'),
    options: named(stdout, /^ {2}(?:-\w, )?(--[a-z-]+)/gm),
  }
}

t.test('the table of variables and .env.example are what the program checks by', async (t) => {
  t.equal(readme, withEnvTable(readme), REGENERATE)
  t.equal(read('.env.example'), envExample(), REGENERATE)
  const misspelt = readme.replace('| `PORT` |', '| `PROT` |')
  t.not(withEnvTable(misspelt), misspelt, 'a change would show')
  t.throws(() => withEnvTable('no marks'), /must have the marks/)
})

t.test('paths that the documents name are there', async (t) => {
  for (const file of DOCUMENTS) t.strictSame(deadPaths(file, read(file)), [], file)
  t.strictSame(deadPaths('README.md', '[a](nowhere.md) [b](LICENSE) [c](#no-such) `src/nothing.ts` `src/sync`'), [
    '#no-such',
    'nowhere.md',
    'src/nothing.ts',
  ])
  t.strictSame(deadPaths('src/sync/README.md', '`merge.ts` and `fly.ts`; [a](README.md#fly)'), [
    'README.md#fly',
    'fly.ts',
  ])
})

t.test('npm scripts that the documents name are there', async (t) => {
  const scripts = Object.keys((JSON.parse(read('package.json')) as { scripts: object }).scripts)
  const pattern = /npm (?:run )?((?<=run )[a-z:-]+|start|test)\b/g
  for (const file of DOCUMENTS) t.strictSame(unknown(read(file), pattern, scripts), [], file)
  t.strictSame(unknown('npm run fly, npm start, npm ci', pattern, scripts), ['fly'])
  t.strictSame(unknown('npm start', pattern, []), ['start'])
})

t.test('commands and options that the documents name are in the help', async (t) => {
  const groups = ['audit', 'keys', 'privacy', 'settings', 'tenants']
  const top = await helpOf()
  const grouped = await Promise.all(
    groups.map(async (group) => (await helpOf(group)).commands.map((name) => `${group} ${name}`)),
  )
  const commands = [...top.commands.filter((name) => !groups.includes(name)), ...grouped.flat()].sort()
  for (const file of DOCUMENTS) {
    t.strictSame(
      commandsOf(read(file)).filter((name) => !commands.includes(name)),
      [],
      file,
    )
  }
  t.strictSame(named(readme, /^\| `npx lockstep ([a-z -]+)` \|/gm), commands, 'the table has every command')
  t.strictSame(commandsOf('npx lockstep fly, `npx lockstep keys burn`'), ['fly', 'keys burn'])

  const taken: string[] = []
  const withOptions = [
    'reconcile',
    'import',
    'export',
    'retention',
    'privacy export',
    'simulator',
    'keys create',
    'audit verify',
    'audit trim',
    'tenants create',
    'rotate-encryption',
  ]
  for (const command of withOptions) {
    for (const option of (await helpOf(command)).options) taken.push(`${command} ${option}`)
  }
  const missing = (text: string) => optionsOf(text).filter((option) => !taken.includes(option))
  t.ok(optionsOf(readme).length >= 10, 'they are found')
  t.strictSame(missing(readme), [])
  t.strictSame(missing('| `npx lockstep reconcile` | `--dry-run`, `--hurry` |'), ['reconcile --hurry'])
})

t.test('the table of routes is the API', async (t) => {
  const api = await openApi(t)
  const { paths } = (await api.call('GET', '/api/docs/json')).body as { paths: Record<string, Record<string, unknown>> }
  const routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path.replace(/\{(\w+)\}/g, ':$1')}`),
  )
  t.strictSame(routesOf(readme), routes.sort())
  t.not(routesOf(`${readme}\n| \`GET /flights/:id\` | x |`).length, routes.length, 'one too many would show')
  t.not(routesOf(readme.replace('| `GET /conflicts` |', '')).length, routes.length, 'a missing one would show')
})

t.test('metrics that the README names are there', async (t) => {
  const metrics = (await makeMetrics().registry.getMetricsAsJSON()).map(({ name }) => name)
  // What is no metric: the claims of a token, the mark of a merge, a role of Postgres.
  const claims = ['lockstep_tenant', 'lockstep_role', 'lockstep_merged_into', 'lockstep_api']
  const pattern = /`(lockstep_[a-z_]+)/g
  t.ok(named(readme, pattern).length >= 7, 'they are found')
  t.strictSame(unknown(readme, pattern, [...metrics, ...claims]), [])
  t.strictSame(unknown('`lockstep_flights_total`', pattern, metrics), ['lockstep_flights_total'])
})

t.test('the changelog has its place for what comes next', async (t) => {
  const heading = /^## Unreleased$/m
  t.match(read('CHANGELOG.md'), heading)
  t.notMatch('# Changelog\n\n## 1.0.0\n', heading)
})
