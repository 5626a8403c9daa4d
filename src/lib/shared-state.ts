import type { Redis } from 'ioredis'

/** A small text as the store has it. */
export interface Shared {
  /** Null: there is none, or no longer. */
  text: string | null
  /** The store's time when it answered, as milliseconds since the Unix epoch: one clock for all processes. */
  now: number
}

/**
 * Small texts that processes share and change by compare-and-swap: who read what is no longer there has to decide anew. Nothing
 * in it is to be missed for longer than a moment: the store may forget it.
 */
export interface SharedState {
  read(key: string): Promise<Shared>
  /** Puts `next` where `expected` still stands (null: nothing). Answers what stands there now. */
  swap(key: string, expected: string | null, next: string): Promise<Shared & { isSwapped: boolean }>
}

/** What is not changed for so long is forgotten, in milliseconds. */
const FORGET_MS = 3_600_000

const TIME = `local t = redis.call('TIME') local now = t[1] .. '.' .. string.format('%06d', t[2])`
const READ = `${TIME} return { redis.call('GET', KEYS[1]), now }`
const SWAP = `${TIME}
  local found = redis.call('GET', KEYS[1])
  if (found or '') ~= ARGV[1] then return { found, now, 0 } end
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return { ARGV[2], now, 1 }`

/**
 * In Redis.
 *
 * @param prefix comes before the keys
 */
export function makeRedisState(redis: Redis, prefix: string): SharedState {
  const run = async (script: string, key: string, ...args: (string | number)[]) => {
    const [text, now, isSwapped] = (await redis.eval(script, 1, `${prefix}:${key}`, ...args)) as [
      string | null,
      string,
      number | undefined,
    ]
    return { text, now: Number(now) * 1000, isSwapped: isSwapped === 1 }
  }
  return {
    read: (key) => run(READ, key),
    swap: (key, expected, next) => run(SWAP, key, expected ?? '', next, FORGET_MS),
  }
}

/** In this process alone. */
export function makeOwnState(): SharedState {
  const texts = new Map<string, string>()
  const now = () => performance.timeOrigin + performance.now()
  return {
    async read(key) {
      return { text: texts.get(key) ?? null, now: now() }
    },
    async swap(key, expected, next) {
      const found = texts.get(key) ?? null
      if (found !== expected) return { text: found, now: now(), isSwapped: false }
      texts.set(key, next)
      return { text: next, now: now(), isSwapped: true }
    },
  }
}
