import { AsyncLocalStorage } from 'node:async_hooks'
import type { Choices } from './random.js'

/** What becomes of a task that stands at a point. */
export type Verdict =
  /** It goes on. */
  | 'go'
  /** What it was about to do fails; with `late`, after it was done. */
  | 'fail'
  | 'fail-late'

/** A place where a task may be stopped: a statement to Postgres, a call to Stripe, a wait. */
export interface Point {
  label: string
  kind: 'database' | 'stripe' | 'wait'
  /** Not to be passed before this is so. */
  isReady(): boolean
  resume(verdict: Verdict): void
}

/** One thing that the service, or an application beside it, is doing. */
export interface Task {
  id: number
  name: string
  owner: Owner
  points: Point[]
  isDone: boolean
  /** Waits in Postgres for a lock that another task's transaction holds. */
  isBlocked: boolean
}

/** What the scheduler asks of Postgres about locks. */
export interface Locks {
  /** For each of these tasks whose statement waits for a lock: the tasks that hold it, or come before it in the queue for it. */
  waits(tasks: readonly Task[]): Promise<Map<Task, Task[]>>
  /** Lets the statement of a waiting task fail as the victim of a deadlock. */
  breakDeadlock(victim: Task): Promise<void>
  /** Keeps a task's statement from going on once it has its lock: of several that have theirs at once, one goes on at a time. */
  stop(task: Task): void
  /** Ends what `stop` began. */
  go(task: Task): void
}

/** The process that a task runs in; when it dies, its tasks stop where they stand. */
export interface Owner {
  name: string
  isDead: boolean
  tasks: Set<Task>
}

/** How long a statement may take, in milliseconds of real time, before Postgres is asked whether it waits for a lock. */
const SLOW_MS = 4
/** No statement takes so long: something hangs that the scheduler does not know of. Milliseconds. */
const STUCK_MS = 30_000

const current = new AsyncLocalStorage<Task>()

/** The task in which the caller runs. */
export const currentTask = (): Task | undefined => current.getStore()

/**
 * Runs tasks one at a time, from point to point. Which goes on next is the caller's choice, so a run with the same choices
 * is the same run, and every interleaving of statements and calls can happen. Where Postgres itself makes a task wait for
 * another's lock, it is left waiting and the others go on.
 */
export class Scheduler {
  readonly tasks = new Set<Task>()
  #lastId = 0
  #changed: () => void = () => {}
  readonly #locks: Locks
  readonly #onEnd: (task: Task, error: unknown) => void

  /** @param onEnd told of every task that ends, with what it threw or undefined */
  constructor(locks: Locks, onEnd: (task: Task, error: unknown) => void) {
    this.#locks = locks
    this.#onEnd = onEnd
  }

  /** Starts a task; it runs up to its first point. */
  async start(owner: Owner, name: string, work: () => Promise<unknown>): Promise<Task> {
    this.#lastId += 1
    const task: Task = { id: this.#lastId, name, owner, points: [], isDone: false, isBlocked: false }
    this.tasks.add(task)
    owner.tasks.add(task)
    const end = (error: unknown) => {
      if (owner.isDead) return
      task.isDone = true
      this.tasks.delete(task)
      owner.tasks.delete(task)
      this.#onEnd(task, error)
      this.#changed()
    }
    current.run(task, () => {
      work().then(
        () => end(undefined),
        (error: unknown) => end(error ?? new Error('unknown')),
      )
    })
    await this.#untilStopped(task)
    return task
  }

  /** Called by a task's code where it may be stopped; resolves when the task is let on. */
  point(kind: Point['kind'], label: string, isReady: () => boolean = () => true): Promise<Verdict> {
    const task = current.getStore()
    if (task === undefined) return Promise.resolve('go')
    return new Promise((resolve) => {
      if (task.owner.isDead) {
        if (kind !== 'database') resolve('fail')
        return
      }
      task.points.push({ kind, label, isReady, resume: resolve })
      this.#changed()
    })
  }

  /** The tasks that can go on. */
  ready(): Task[] {
    return [...this.tasks].filter((task) => !task.isBlocked && task.points.some((point) => point.isReady()))
  }

  /** Lets a task on to its next point. Answers the point that it left. */
  async step(task: Task, judge: (point: Point) => Verdict): Promise<{ point: Point; verdict: Verdict } | null> {
    const at = task.points.findIndex((point) => point.isReady())
    const [point] = at < 0 ? [] : task.points.splice(at, 1)
    if (point === undefined) return null
    const verdict = judge(point)
    point.resume(verdict)
    await this.#untilStopped(task)
    await this.settleBlocked()
    return { point, verdict }
  }

  /** Lets tasks on, one step each in an order of `choices`, until none is left, or none can go on. */
  async drain(choices: Choices): Promise<void> {
    for (let ready = this.ready(); ready.length > 0; ready = this.ready()) {
      await this.step(choices.pick(ready), () => 'go')
    }
  }

  /**
   * Stops the tasks of a process where they stand, for ever. Those that wait for Stripe or the clock are woken, so that what they
   * hold in this real process (a timer) is let go; they end at their next point.
   */
  kill(owner: Owner): void {
    owner.isDead = true
    for (const task of owner.tasks) {
      this.tasks.delete(task)
      for (const point of task.points) if (point.kind !== 'database') point.resume('fail')
    }
    owner.tasks.clear()
  }

  /** Lets those on that waited for a lock and have it now, one after the other, the oldest first. */
  async settleBlocked(): Promise<void> {
    for (;;) {
      const blocked = [...this.tasks].filter(({ isBlocked }) => isBlocked)
      if (blocked.length === 0) return
      const waits = await this.#locks.waits(blocked)
      const free = blocked.find((task) => !waits.has(task))
      const victim = free === undefined ? blocked.findLast((task) => isDeadlocked(task, waits)) : undefined
      const next = free ?? victim
      if (next === undefined) return
      next.isBlocked = false
      this.#locks.go(next)
      if (victim !== undefined) await this.#locks.breakDeadlock(victim)
      await this.#untilStopped(next)
    }
  }

  async #untilStopped(task: Task): Promise<void> {
    const started = Date.now()
    const hasStopped = () => task.isDone || task.points.length > 0
    while (!hasStopped()) {
      if (await this.#changes(SLOW_MS)) continue
      const others = [...this.tasks].filter(({ isBlocked }) => isBlocked)
      const waits = await this.#locks.waits([...others, task])
      if (hasStopped()) return
      if (waits.has(task)) {
        if (!isDeadlocked(task, waits)) {
          task.isBlocked = true
          this.#locks.stop(task)
          return
        }
        // Whoever closes the circle gives way.
        await this.#locks.breakDeadlock(task)
      }
      if (Date.now() - started > STUCK_MS) throw new Error(`task ${task.name} hangs outside Postgres and Stripe`)
    }
  }

  /** Whether something changes within so many milliseconds. */
  #changes(milliseconds: number): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), milliseconds)
      this.#changed = () => {
        clearTimeout(timer)
        resolve(true)
      }
    })
  }
}

/** Whether the task waits for one that waits for it. */
function isDeadlocked(task: Task, waits: Map<Task, Task[]>): boolean {
  const seen = new Set<Task>()
  const stack = [task]
  for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
    for (const other of waits.get(at) ?? []) {
      if (other === task) return true
      if (seen.has(other)) continue
      seen.add(other)
      stack.push(other)
    }
  }
  return false
}
