/** A place in time order: seconds or milliseconds, then the order of making within them. */
export interface Key {
  at: number
  seq: number
}

/** Things in time order that can be walked from any place in either direction. */
export interface Ordered<T> {
  /** Older than `below`, newest first. */
  descend(below: Key): Iterable<T>
  /** Newer than `above`, oldest first. */
  ascend(above: Key): Iterable<T>
  keyOf(item: T): Key
}

export const compareKeys = (a: Key, b: Key): number => a.at - b.at || a.seq - b.seq

export const beginning: Key = { at: Number.NEGATIVE_INFINITY, seq: Number.NEGATIVE_INFINITY }
export const end: Key = { at: Number.POSITIVE_INFINITY, seq: Number.POSITIVE_INFINITY }

/**
 * A sorted array. Adding is a push as long as time goes forward, and a binary search plus a splice when the clock was set
 * back; finding a place is a binary search, so a page costs its own length.
 */
export class Timeline<T> implements Ordered<T> {
  readonly #items: T[] = []
  readonly keyOf: (item: T) => Key

  constructor(keyOf: (item: T) => Key) {
    this.keyOf = keyOf
  }

  get size(): number {
    return this.#items.length
  }

  get first(): T | undefined {
    return this.#items[0]
  }

  add(item: T): void {
    const last = this.#items.at(-1)
    if (last === undefined || compareKeys(this.keyOf(last), this.keyOf(item)) < 0) this.#items.push(item)
    else this.#items.splice(this.#from(this.keyOf(item)), 0, item)
  }

  remove(item: T): void {
    const place = this.#from(this.keyOf(item))
    const there = this.#items[place]
    if (there !== undefined && compareKeys(this.keyOf(there), this.keyOf(item)) === 0) this.#items.splice(place, 1)
  }

  /** Puts `item` where one with the same key is, or adds it. */
  set(item: T): void {
    const key = this.keyOf(item)
    const place = this.#from(key)
    const there = this.#items[place]
    if (there !== undefined && compareKeys(this.keyOf(there), key) === 0) this.#items[place] = item
    else this.add(item)
  }

  /** Takes away and returns the items before `key`. */
  cut(key: Key): T[] {
    return this.#items.splice(0, this.#from(key))
  }

  *descend(below: Key): Iterable<T> {
    for (let place = this.#from(below) - 1; place >= 0; place--) {
      const item = this.#items[place]
      if (item !== undefined) yield item
    }
  }

  *ascend(above: Key): Iterable<T> {
    for (let place = this.#after(above); place < this.#items.length; place++) {
      const item = this.#items[place]
      if (item !== undefined) yield item
    }
  }

  /** The first place whose key is not below `key`. */
  #from(key: Key): number {
    return lowerBound(this.#items.length, (place) => {
      const item = this.#items[place]
      return item !== undefined && compareKeys(this.keyOf(item), key) < 0
    })
  }

  #after(key: Key): number {
    const place = this.#from(key)
    const item = this.#items[place]
    return item !== undefined && compareKeys(this.keyOf(item), key) === 0 ? place + 1 : place
  }
}

/** The first of `length` places for which `isBelow` no longer holds. */
export function lowerBound(length: number, isBelow: (place: number) => boolean): number {
  let low = 0
  let high = length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (isBelow(middle)) low = middle + 1
    else high = middle
  }
  return low
}

/** Walks two orders as one. */
export function* merge<T>(a: Iterable<T>, b: Iterable<T>, before: (x: T, y: T) => boolean): Iterable<T> {
  const left = a[Symbol.iterator]()
  const right = b[Symbol.iterator]()
  let x = left.next()
  let y = right.next()
  while (!x.done || !y.done) {
    if (y.done || (!x.done && before(x.value, y.value))) {
      if (!x.done) yield x.value
      x = left.next()
    } else {
      yield y.value
      y = right.next()
    }
  }
}
