import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const SRC = fileURLToPath(new URL('../src', import.meta.url))

/** Who may import whom, by folder; a file at the top of src by its own name. Types follow the same arrows but where noted. */
const ALLOWED: Record<string, readonly string[]> = {
  lib: [],
  models: ['lib'],
  repositories: ['lib', 'models'],
  stripe: ['lib', 'models'],
  queue: ['lib', 'models'],
  services: ['lib', 'models', 'repositories', 'stripe', 'sync/fields.ts'],
  sync: ['lib', 'models', 'repositories', 'stripe', 'services'],
  access: ['lib', 'models', 'repositories'],
  jobs: ['lib', 'models', 'repositories', 'queue', 'sync', 'services'],
  routes: ['lib', 'models', 'repositories', 'services', 'sync', 'access', 'http'],
  http: ['lib', 'models', 'repositories', 'services', 'access', 'routes'],
  simulator: ['lib/clock.ts'],
  embedded: ['lib', 'simulator'],
  'environment.ts': [],
  'config.ts': ['lib', 'environment.ts'],
  'core.ts': ['config.ts', 'embedded', 'lib', 'models', 'queue', 'repositories', 'services', 'stripe', 'sync'],
  app: ['access', 'config.ts', 'core.ts', 'http', 'jobs', 'lib', 'models', 'queue', 'repositories', 'services', 'sync'],
  'app.ts': ['app', 'config.ts', 'core.ts', 'lib'],
  cli: ['access', 'app.ts', 'config.ts', 'core.ts', 'lib', 'models', 'repositories', 'services', 'simulator', 'sync'],
  'cli.ts': ['access', 'app.ts', 'cli', 'config.ts', 'core.ts', 'embedded', 'lib', 'models'],
}

/** Files that are pure: they run nothing of what talks to a database, to Stripe or to a queue. */
const PURE = [
  'sync/fields.ts',
  'sync/merge.ts',
  'sync/merge-plan.ts',
  'sync/decide.ts',
  'sync/observe.ts',
  'sync/event-types.ts',
  'sync/list-plan.ts',
  'access/roles.ts',
]

interface Source {
  file: string
  text: string
}

interface Import {
  target: string
  isType: boolean
}

function sources(folder = SRC): Source[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) return entry.name === 'generated' ? [] : sources(path)
    return entry.name.endsWith('.ts') ? [{ file: relative(SRC, path), text: readFileSync(path, 'utf8') }] : []
  })
}

/** The project's own files that a file imports, at once or later. An import of which every name is a `type` is one of types. */
function importsOf({ file, text }: Source): Import[] {
  const later = [...text.matchAll(/\bimport\('(\.[^']+)'\)/g)].map(([, path = '']) => ({
    target: relative(SRC, resolve(SRC, dirname(file), path)).replace(/\.js$/, '.ts'),
    isType: false,
  }))
  const atOnce = [...text.matchAll(/(?:import|export)\s+(type\s+)?([^'"]*?)\s*from\s+'(\.[^']+)'/g)].map(
    ([, typeOnly, names = '', path = '']) => ({
      target: relative(SRC, resolve(SRC, dirname(file), path)).replace(/\.js$/, '.ts'),
      isType:
        typeOnly !== undefined ||
        (names.startsWith('{') &&
          names
            .slice(1, -1)
            .split(',')
            .every((name) => /^\s*(type\s|$)/.test(name))),
    }),
  )
  return [...atOnce, ...later]
}

function placeOf(file: string): string {
  return file.includes('/') ? (file.split('/')[0] ?? file) : file
}

function forbiddenImports(source: Source): string[] {
  const place = placeOf(source.file)
  const allowed = ALLOWED[place]
  if (allowed === undefined) return [`${source.file} has no place in the table`]
  return importsOf(source)
    .filter(({ target }) => !target.includes('generated'))
    .filter(
      ({ target }) => placeOf(target) !== place && !allowed.includes(placeOf(target)) && !allowed.includes(target),
    )
    .map(({ target }) => `${source.file} -> ${target}`)
}

function impureImports(source: Source): string[] {
  if (!PURE.includes(source.file)) return []
  return importsOf(source)
    .filter(({ target, isType }) => !isType && !PURE.includes(target) && !/^(lib|models)\//.test(target))
    .map(({ target }) => `${source.file} -> ${target}`)
}

/** A way from a file back to itself along imports, be they of types: who reads one of them would have to read the other first. */
function cycles(all: Source[]): string[] {
  const next = new Map(all.map((source) => [source.file, importsOf(source).map(({ target }) => target)]))
  const done = new Set<string>()
  const found: string[] = []
  const walk = (file: string, path: string[]) => {
    if (path.includes(file)) found.push([...path.slice(path.indexOf(file)), file].join(' -> '))
    if (done.has(file) || path.includes(file)) return
    for (const target of next.get(file) ?? []) walk(target, [...path, file])
    done.add(file)
  }
  for (const { file } of all) walk(file, [])
  return found
}

const readsEnvironment = ({ file, text }: Source) =>
  text.includes('process.env') && file !== 'config.ts' ? [file] : []
const saysAny = ({ file, text }: Source) =>
  /(:\s*any\s*[;,)=\]>|]|\bas any\b|<any>)/.test(text.replace(/\/\*\*[\s\S]*?\*\/|\/\/.*|'[^'\n]*'/g, '')) ? [file] : []
const isTooLong = ({ file, text }: Source) => (text.split('\n').length > 450 ? [file] : [])
/** Only the sync and the customers API write users; every statement that does is in one of these. */
const writesUsers = ({ file, text }: Source) =>
  /(update|insert into|delete from) users\b|\buser\.(create|update|delete)/.test(text) &&
  !file.startsWith('models/') &&
  !['repositories/users.ts', 'repositories/customers.ts'].includes(file)
    ? [file]
    : []

t.test('arrows between folders', async (t) => {
  t.strictSame(sources().flatMap(forbiddenImports), [])
  const bad = { file: 'lib/a.ts', text: `import { x } from '../sync/merge.js'` }
  t.strictSame(forbiddenImports(bad), ['lib/a.ts -> sync/merge.ts'], 'and the rule can fail')
  t.strictSame(forbiddenImports({ file: 'lib/a.ts', text: `await import('../sync/merge.js')` }), [
    'lib/a.ts -> sync/merge.ts',
  ])
  t.match(forbiddenImports({ file: 'utils/a.ts', text: '' }), ['utils/a.ts has no place'])
  t.strictSame(forbiddenImports({ file: 'services/a.ts', text: `import { q } from '../queue/queues.js'` }), [
    'services/a.ts -> queue/queues.ts',
  ])
})

t.test('the core is pure', async (t) => {
  t.strictSame(sources().flatMap(impureImports), [])
  t.strictSame(impureImports({ file: 'sync/merge.ts', text: `import { x } from '../repositories/users.js'` }), [
    'sync/merge.ts -> repositories/users.ts',
  ])
  t.strictSame(impureImports({ file: 'sync/merge.ts', text: `import type { X } from '../repositories/users.js'` }), [])
})

t.test('no cycles', async (t) => {
  t.strictSame(cycles(sources()), [])
  const circle = [
    { file: 'lib/a.ts', text: `import { b } from './b.js'` },
    { file: 'lib/b.ts', text: `import { a } from './a.js'` },
  ]
  t.equal(cycles(circle).length, 1)
})

t.test('one reader of the environment, no any, no file that does everything, two writers of users', async (t) => {
  t.strictSame(sources().flatMap(readsEnvironment), [])
  t.strictSame(readsEnvironment({ file: 'lib/a.ts', text: 'process.env.X' }), ['lib/a.ts'])
  t.strictSame(sources().flatMap(saysAny), [])
  t.strictSame(saysAny({ file: 'lib/a.ts', text: 'const x: any = 1' }), ['lib/a.ts'])
  t.strictSame(sources().flatMap(isTooLong), [])
  t.strictSame(isTooLong({ file: 'lib/a.ts', text: '\n'.repeat(500) }), ['lib/a.ts'])
  t.strictSame(sources().flatMap(writesUsers), [])
  t.strictSame(writesUsers({ file: 'jobs/a.ts', text: 'update users set email = null' }), ['jobs/a.ts'])
})
