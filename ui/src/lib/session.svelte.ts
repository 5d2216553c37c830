// Who is signed in.

import { api, ApiError, get, onState, setCsrf, type Schemas } from '../api/client'
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
    this.current = session
    this.known = true
    setCsrf(session.csrf)
    live.start()
  }
}

export const session = new Sessions()
