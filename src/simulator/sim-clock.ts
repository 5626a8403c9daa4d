import { type Clock, ManualClock } from '../lib/clock.js'
import type { State } from './state.js'

/** The simulator's time: the given clock, moved or stopped by the switches. Where that clock is manual, the switches move it itself. */
export class SimulatorClock implements Clock {
  readonly #base: Clock
  readonly #state: State

  constructor(base: Clock, state: State) {
    this.#base = base
    this.#state = state
  }

  get frozen(): boolean {
    return this.#base instanceof ManualClock || this.#state.clock.frozen !== null
  }

  now(): number {
    const { offset, frozen } = this.#state.clock
    return frozen ?? this.#base.now() + offset
  }

  advance(milliseconds: number): void {
    if (this.#base instanceof ManualClock) this.#base.advance(milliseconds)
    else this.set(this.now() + milliseconds)
  }

  set(time: number): void {
    if (this.#base instanceof ManualClock) this.#base.set(time)
    else this.#move(time - this.#base.now(), this.#state.clock.frozen === null ? null : time)
  }

  freeze(): void {
    if (!this.frozen) this.#move(this.#state.clock.offset, this.now())
  }

  /** Goes on from where it stood. */
  unfreeze(): void {
    const { frozen } = this.#state.clock
    if (frozen !== null) this.#move(frozen - this.#base.now(), null)
  }

  #move(offset: number, frozen: number | null): void {
    this.#state.commit({ k: 'clock', offset, frozen })
    this.#state.persist()
  }
}
