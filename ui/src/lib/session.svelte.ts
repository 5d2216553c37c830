// Who is signed in.

import { api, ApiError, get, onState, setCsrf, type Schemas } from '../api/client'
import { clock } from './clock.svelte'
import { live } from './live.svelte'

export type Session = Schemas['SessionAnswer']

class Sessions {
  current = $state.raw<Session | undefined>()
  /** False until it is known whether somebody is signed in. */
  known = $state(false)
  #loading = false

  constructor() {
    onState({ signedOut: () => live.stop(), answered: (ok) => live.answered(ok) })
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
  async load(): Promise<void> {
    if (this.#loading) return
    this.#loading = true
    try {
      this.#take(await get<Session>('/api/v1/session'))
    } catch (error) {
      // Without an answer nothing is known.
      if (!(error instanceof ApiError) || error.code === 'offline') return
    } finally {
      this.#loading = false
    }
    this.known = true
  }

  async signIn(code: string): Promise<void> {
    this.#take(await api<Session>('POST', '/api/v1/session', { body: { code } }))
  }

  async signOut(): Promise<void> {
    await api<void>('DELETE', '/api/v1/session')
    this.current = undefined
    setCsrf('')
    live.stop()
  }

  #take(session: Session): void {
    const before = this.current
    const same = before !== undefined && Object.keys(session).every((key) => JSON.stringify(before[key as 'id']) === JSON.stringify(session[key as 'id']))
    if (!same) this.current = session
    this.known = true
    setCsrf(session.csrf)
    // Whoever was told of the same session already goes on.
    if (before?.id !== session.id || live.signedOut) live.start()
  }
}

export const session = new Sessions()
