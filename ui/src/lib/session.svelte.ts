// Who is signed in.

import { api, ApiError, get, onState, setCsrf, type Schemas } from '../api/client'
import { clock } from './clock.svelte'
import { dropDraft } from './draft'
import { live } from './live.svelte'

export type Session = Schemas['SessionAnswer']

class Sessions {
  current = $state.raw<Session | undefined>()
  /** False until it is known whether somebody is signed in. */
  known = $state(false)
  /** What this device has joined another mesh as, while nobody has signed in since; empty: it was let in, as what is not known. */
  joined = $state<string | undefined>()
  #loading: Promise<void> | undefined

  constructor() {
    onState({ signedOut: () => live.stop(), answered: (ok) => live.answered(ok), renew: () => this.#renew() })
  }

  get isAdmin(): boolean {
    const role = this.current?.principal.role
    return role === 'owner' || role === 'admin'
  }

  /** True for a while after signing in: then rights can be edited. */
  get fresh(): boolean {
    return this.current !== undefined && Date.parse(this.current.fresh_until) > clock.now
  }

  /** Takes up the session that the cookie keeps, if there is one. */
  load(): Promise<void> {
    return (this.#loading ??= this.#load().finally(() => (this.#loading = undefined)))
  }

  async #load(): Promise<void> {
    try {
      this.#take(await get<Session>('/api/v1/session'))
    } catch (error) {
      // Without an answer nothing is known.
      if (!(error instanceof ApiError) || error.code === 'offline') return
    }
    this.known = true
  }

  /** Takes up the session anew; true if it is the same person's: what she pressed in the one before still is her wish. */
  async #renew(): Promise<boolean> {
    const before = this.current?.principal.id
    // One that is under way may have been asked before the other sign-in.
    await this.#loading
    await this.load()
    return before !== undefined && this.current?.principal.id === before
  }

  async signIn(code: string): Promise<void> {
    this.#take(await api<Session>('POST', '/api/v1/session', { body: { code } }))
  }

  async signOut(): Promise<void> {
    await api<void>('DELETE', '/api/v1/session')
    dropDraft()
    this.current = undefined
    setCsrf('')
    live.stop()
  }

  #take(session: Session): void {
    const before = this.current
    if (before?.id !== session.id) this.joined = undefined
    const same = before !== undefined && Object.keys(session).every((key) => JSON.stringify(before[key as 'id']) === JSON.stringify(session[key as 'id']))
    if (!same) this.current = session
    this.known = true
    setCsrf(session.csrf)
    // Whoever was told of the same session already goes on.
    if (before?.id !== session.id || live.signedOut) live.start()
  }
}

export const session = new Sessions()
