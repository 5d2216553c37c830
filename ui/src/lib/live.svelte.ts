// Events of the agent: one stream for all tabs of this browser, and whether the agent answers at all. An event says only that
// something is stale; what it is now is asked of its route.

export type Topic = 'gateway' | 'nodes' | 'call' | 'pending' | 'nearby' | 'warning'
/** `reset`: read everything anew. */
export type Told = { topic: Topic | 'reset'; data: unknown }
type Listener = (told: Told) => void

const TOPICS: Topic[] = ['gateway', 'nodes', 'call', 'pending', 'nearby', 'warning']
/** Retries while the agent does not answer, milliseconds; with a jitter, so that tabs do not come all at once. */
const RETRY_FIRST = 1_000
const RETRY_MAX = 15_000
/** A tab that was hidden for longer may have missed something. */
const SLEPT = 5_000

class Live {
  /** False while the agent does not answer. */
  up = $state(true)
  /** Since when it does not. */
  downSince = $state(0)
  /** Time of the next try. */
  nextTry = $state(0)
  /** True once the session is over. */
  signedOut = $state(false)

  #listeners = new Set<Listener>()
  #channel: BroadcastChannel | undefined
  #source: EventSource | undefined
  #leads = false
  #wait = RETRY_FIRST
  #timer: ReturnType<typeof setTimeout> | undefined
  #hiddenAt = 0
  #started = false

  listen(listener: Listener): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Begins once somebody is signed in. */
  start(): void {
    this.signedOut = false
    if (this.#started) {
      if (!this.#source) this.#open()
      this.#tell({ topic: 'reset', data: {} })
      return
    }
    this.#started = true
    if ('BroadcastChannel' in window) {
      this.#channel = new BroadcastChannel('sigil-live')
      this.#channel.onmessage = (message: MessageEvent<Told>) => this.#tell(message.data)
    }
    const lead = () => {
      this.#leads = true
      this.#open()
      // Held until this tab closes: then another takes over.
      return new Promise<void>(() => {})
    }
    if (navigator.locks) void navigator.locks.request('sigil-live', lead)
    else void lead()
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) this.#hiddenAt = Date.now()
      else if (Date.now() - this.#hiddenAt > SLEPT) this.#tell({ topic: 'reset', data: {} })
    })
    window.addEventListener('online', () => this.retry())
    window.addEventListener('pageshow', (event) => event.persisted && this.#tell({ topic: 'reset', data: {} }))
  }

  /** The session is over: nothing more is asked. */
  stop(): void {
    this.signedOut = true
    this.#source?.close()
    this.#source = undefined
  }

  answered(ok: boolean): void {
    if (ok && !this.up) {
      this.up = true
      this.downSince = 0
      this.#wait = RETRY_FIRST
      clearTimeout(this.#timer)
      this.#tell({ topic: 'reset', data: {} })
      if (this.#leads) this.#open()
    } else if (!ok) {
      if (this.up) {
        this.up = false
        this.downSince = Date.now()
        this.#schedule()
      }
    }
  }

  retry(): void {
    clearTimeout(this.#timer)
    void this.#ping()
  }

  #schedule(): void {
    clearTimeout(this.#timer)
    const wait = this.#wait * (0.75 + Math.random() / 2)
    this.#wait = Math.min(this.#wait * 2, RETRY_MAX)
    this.nextTry = Date.now() + wait
    this.#timer = setTimeout(() => void this.#ping(), wait)
  }

  async #ping(): Promise<void> {
    try {
      await fetch('/healthz', { cache: 'no-store' })
      this.answered(true)
    } catch {
      this.#schedule()
    }
  }

  #open(): void {
    if (!this.#leads || this.signedOut) return
    this.#source?.close()
    const source = new EventSource('/api/v1/events')
    this.#source = source
    source.onopen = () => this.answered(true)
    for (const topic of [...TOPICS, 'reset'] as const) {
      source.addEventListener(topic, (event) => {
        const told: Told = { topic, data: parse((event as MessageEvent<string>).data) }
        this.#tell(told)
        this.#channel?.postMessage(told)
      })
    }
    source.onerror = () => {
      // The browser tries again by itself, unless it was refused or the connection never came to be.
      if (source.readyState === EventSource.CLOSED) {
        setTimeout(() => void this.#reopen(source), 1_000 + Math.random() * 1_000)
      } else {
        void this.#ping1()
      }
    }
  }

  async #reopen(closed: EventSource): Promise<void> {
    if (this.#source !== closed || this.signedOut) return
    const there = await this.#ping1()
    if (!there) return
    const reset: Told = { topic: 'reset', data: {} }
    this.#tell(reset)
    this.#channel?.postMessage(reset)
    this.#open()
  }

  async #ping1(): Promise<boolean> {
    try {
      await fetch('/healthz', { cache: 'no-store' })
      this.answered(true)
      return true
    } catch {
      this.answered(false)
      return false
    }
  }

  #tell(told: Told): void {
    for (const listener of [...this.#listeners]) listener(told)
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return {}
  }
}

export const live = new Live()
