import { isAbsolute } from 'node:path'
import t from 'tap'
import { ConfigError, loadConfig } from '../src/config.js'
import { describeVariables } from '../src/environment.js'

const KEY = 'sk_test_4eC39HqLyjWDarjtT1zdp7dc'
const SECRET = 'whsec_abc123'
const PRODUCTION = {
  NODE_ENV: 'production',
  DATABASE_URL: 'postgresql://app:pw@db:5432/app',
  STRIPE_SECRET_KEY: 'rk_live_abc',
  STRIPE_WEBHOOK_SECRET: SECRET,
  LOCKSTEP_ENCRYPTION_KEY: 'A'.repeat(43),
}

function mistakes(env: Record<string, string>): ConfigError {
  try {
    loadConfig(env)
  } catch (error) {
    if (error instanceof ConfigError) return error
    throw error
  }
  throw new Error('It was accepted.')
}

const namesOf = (error: ConfigError) => error.problems.map(({ name }) => name)

t.test('with nothing set everything is embedded', async (t) => {
  const config = loadConfig({})
  t.match(config, {
    production: false,
    host: '127.0.0.1',
    port: 3000,
    logLevel: 'info',
    databaseUrl: null,
    redisUrl: null,
    queue: 'postgres',
    simulatorPort: 12111,
    embedded: { postgres: true, simulator: true },
    stripe: {
      secretKey: null,
      webhookSecrets: [],
      apiBase: null,
      livemode: false,
      rates: { live: 80, test: 80, operation: 80 },
    },
    adminKey: null,
    encryptionKey: null,
    concurrency: 32,
    webhookTolerance: 300,
    bodyLimit: 1_048_576,
  })
  t.ok(isAbsolute(config.dataDir))
  t.ok(Object.isFrozen(config) && Object.isFrozen(config.stripe) && Object.isFrozen(config.embedded))
})

t.test('any subset of the outer parts may be given', async (t) => {
  t.match(loadConfig({ DATABASE_URL: 'postgres://h/d' }), { embedded: { postgres: false, simulator: true } })
  t.match(loadConfig({ REDIS_URL: 'redis://h:6379' }), {
    queue: 'redis',
    embedded: { postgres: true, simulator: true },
  })
  t.match(loadConfig({ STRIPE_SECRET_KEY: KEY, STRIPE_WEBHOOK_SECRET: `${SECRET}, whsec_new` }), {
    embedded: { postgres: true, simulator: false },
    stripe: {
      secretKey: KEY,
      webhookSecrets: [SECRET, 'whsec_new'],
      livemode: false,
      rates: { live: 80, test: 20, operation: 25 },
    },
  })
  t.match(loadConfig({ STRIPE_WEBHOOK_SECRET: SECRET }), {
    embedded: { simulator: true },
    stripe: { webhookSecrets: [SECRET] },
  })
})

t.test('numbers and empty values', async (t) => {
  t.match(loadConfig({ PORT: ' 0 ', LOCKSTEP_STRIPE_RATE: '5', HOST: '', STRIPE_SECRET_KEY: '' }), {
    port: 0,
    host: '127.0.0.1',
    stripe: { rates: { live: 5, test: 5, operation: 5 } },
    embedded: { simulator: true },
  })
  for (const value of ['abc', '-1', '65536', '3.5', '1e3', '0x10']) t.same(namesOf(mistakes({ PORT: value })), ['PORT'])
})

t.test('another host that speaks Stripe', async (t) => {
  const both = { STRIPE_SECRET_KEY: KEY, STRIPE_WEBHOOK_SECRET: SECRET }
  const local = loadConfig({ ...both, STRIPE_API_BASE: 'http://127.0.0.1:12111/' })
  t.match(local, { embedded: { simulator: false }, stripe: { apiBase: 'http://127.0.0.1:12111', rates: { test: 80 } } })
  t.equal(loadConfig({ ...both, STRIPE_API_BASE: 'https://proxy.example.com' }).stripe.rates.test, 20)
  t.same(namesOf(mistakes({ STRIPE_API_BASE: 'http://127.0.0.1:12111' })), ['STRIPE_SECRET_KEY'])
  for (const base of ['127.0.0.1:12111', 'http://host/v1', 'http://host:99999', 'ftp://host']) {
    t.same(namesOf(mistakes({ ...both, STRIPE_API_BASE: base })), ['STRIPE_API_BASE'])
  }
})

t.test('every mistake is reported at once, with what to do, and no secret', async (t) => {
  const error = mistakes({
    PORT: 'eighty',
    LOG_LEVEL: 'loud',
    DATABASE_URL: 'mysql://root:hunter2@h/d',
    REDIS_URL: 'localhost:hunter2',
    STRIPE_SECRET_KEY: 'hunter2',
    STRIPE_WEBHOOK_SECRET: 'whsec_fine,hunter2',
    LOCKSTEP_ADMIN_KEY: 'hunter2',
    LOCKSTEP_ENCRYPTION_KEY: 'hunter2',
    LOCKSTEP_CONCURENCY: '8',
  })
  t.equal(error.code, 'config_invalid')
  t.same(namesOf(error), [
    'PORT',
    'LOG_LEVEL',
    'DATABASE_URL',
    'REDIS_URL',
    'STRIPE_SECRET_KEY',
    'STRIPE_WEBHOOK_SECRET',
    'LOCKSTEP_ADMIN_KEY',
    'LOCKSTEP_ENCRYPTION_KEY',
    'LOCKSTEP_CONCURENCY',
  ])
  t.notMatch(error.message, 'hunter2')
  t.match(error.message, /9 mistakes:\n {2}PORT: "eighty" must be a whole number from 0 to 65535\. Set a port\./)
  t.match(error.message, /LOCKSTEP_CONCURENCY: is no setting.*LOCKSTEP_CONCURRENCY/)
})

t.test('the usual confusions of Stripe keys have their own words', async (t) => {
  t.match(mistakes({ STRIPE_SECRET_KEY: 'pk_test_abc', STRIPE_WEBHOOK_SECRET: SECRET }).message, /publishable key/)
  t.match(mistakes({ STRIPE_SECRET_KEY: KEY }).message, /STRIPE_WEBHOOK_SECRET: is missing/)
})

t.test('production embeds nothing: what is missing is named', async (t) => {
  const error = mistakes({ NODE_ENV: 'production' })
  t.same(namesOf(error), ['DATABASE_URL', 'STRIPE_SECRET_KEY', 'STRIPE_WEBHOOK_SECRET', 'LOCKSTEP_ENCRYPTION_KEY'])
  t.match(loadConfig(PRODUCTION), {
    production: true,
    queue: 'postgres',
    embedded: { postgres: false, simulator: false },
    stripe: { livemode: true, rates: { live: 80 } },
  })
})

t.test('every variable is described', async (t) => {
  const described = describeVariables()
  t.ok(described.every(({ description, fallback }) => description.endsWith('.') && fallback !== ''))
  t.match(described[0], { name: 'PORT', fallback: '`3000`' })
})

t.test('tokens of an issuer', async (t) => {
  t.equal(loadConfig({}).jwt, null)
  t.strictSame(loadConfig({ LOCKSTEP_JWT_ISSUER: 'https://login.example.com/' }).jwt, {
    issuer: 'https://login.example.com/',
    audience: 'lockstep',
    jwksUrl: 'https://login.example.com/.well-known/jwks.json',
  })
  t.match(loadConfig({ LOCKSTEP_TRUST_PROXY: '10.0.0.0/8, ::1' }), { trustProxy: '10.0.0.0/8,::1', apiRate: 6000 })
  const lone = { LOCKSTEP_JWT_AUDIENCE: 'x', LOCKSTEP_JWT_JWKS_URL: 'https://x.example.com/jwks' }
  t.strictSame(namesOf(mistakes(lone)), ['LOCKSTEP_JWT_AUDIENCE', 'LOCKSTEP_JWT_JWKS_URL'])
  t.strictSame(namesOf(mistakes({ LOCKSTEP_TRUST_PROXY: 'everyone' })), ['LOCKSTEP_TRUST_PROXY'])
})

t.test('a replica of the database', async (t) => {
  const url = 'postgresql://lockstep@replica/lockstep'
  t.equal(loadConfig({}).replica, null)
  const given = { DATABASE_URL: 'postgresql://lockstep@primary/lockstep', DATABASE_REPLICA_URL: url }
  t.strictSame(loadConfig(given).replica, { url, mostLagMs: 5_000 })
  t.match(loadConfig({ ...given, LOCKSTEP_REPLICA_LAG: '30' }), { replica: { mostLagMs: 30_000 } })
  t.strictSame(namesOf(mistakes({ DATABASE_REPLICA_URL: url })), ['DATABASE_REPLICA_URL'])
  t.strictSame(namesOf(mistakes({ LOCKSTEP_REPLICA_LAG: '30' })), ['LOCKSTEP_REPLICA_LAG'])
})
