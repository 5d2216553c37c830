// A call on its way to the agent. Its key is made before it is sent and kept until there is an answer, so that an answer that was
// lost, a second click or a reload never make a second call.

import { api, ApiError, problemOf, type Problem, type Schemas } from '../api/client'
import { randomKey } from './text'

const KEPT = 'sigil.sending'
type Kept = { key: string; body: string }

function kept(): Kept | undefined {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT) ?? 'null') ?? undefined
  } catch {
    return undefined
  }
}

export class Sending {
  busy = $state(false)
  problem = $state.raw<Problem | undefined>()

  /** Sends the call, and answers its id. Of a call whose answer was lost the same is sent with the same key. */
  async send(body: string): Promise<string | undefined> {
    if (this.busy) return
    this.busy = true
    this.problem = undefined
    const before = kept()
    const key = before?.body === body ? before.key : randomKey()
    sessionStorage.setItem(KEPT, JSON.stringify({ key, body }))
    try {
      const call = await api<Schemas['Call']>('POST', '/api/v1/calls', { rawBody: body, headers: { 'idempotency-key': key } })
      sessionStorage.removeItem(KEPT)
      return call.id
    } catch (error) {
      // Only what was refused is over; what nobody answered may have been taken.
      if (error instanceof ApiError && error.code !== 'offline' && error.problem.status < 500) sessionStorage.removeItem(KEPT)
      this.problem = problemOf(error)
    } finally {
      this.busy = false
    }
    return undefined
  }
}
