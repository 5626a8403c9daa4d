import type { Task } from './scheduler.js'

/** What happened, readable: ids by short names, in the order of their appearance, so that two runs of a seed read alike. */
export class Trace {
  readonly lines: string[] = []
  readonly #names = new Map<string, string>()
  readonly #counts = new Map<string, number>()
  #time: () => number = () => 0
  #start: number | null = null

  clockIs(now: () => number): void {
    this.#time = now
    this.#start = now()
  }

  note(text: string): void {
    this.#add('*', text)
  }

  step(task: Task, text: string): void {
    this.#add(`${task.owner.name} ${task.name}`, text)
  }

  #add(who: string, text: string): void {
    const seconds = ((this.#time() - (this.#start ?? 0)) / 1000).toFixed(1)
    this.lines.push(`${seconds.padStart(9)}s  ${this.readable(who).padEnd(28)} ${this.readable(text)}`)
  }

  /** The short name of an id: `user1`, `cus2`, `evt3`. */
  alias(id: string, kind = id.split('_')[0] ?? 'id'): string {
    const known = this.#names.get(id)
    if (known !== undefined) return known
    const count = (this.#counts.get(kind) ?? 0) + 1
    this.#counts.set(kind, count)
    const name = `${kind}${count}`
    this.#names.set(id, name)
    return name
  }

  /** A text with ids replaced by their short names. */
  readable(text: string): string {
    return text
      .replace(/\b(cus|evt)_\w+/g, (id) => this.alias(id))
      .replace(/\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/g, (id) => this.alias(id, 'id'))
      .replace(/\s+/g, ' ')
  }
}
