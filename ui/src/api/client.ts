// The one way to the agent: requests to documented routes of this origin, and their errors as RFC 9457 problems.

import type { components } from './schema'

export type Schemas = components['schemas']
export type Problem = Omit<Schemas['Problem'], 'type' | 'code'> & { code: string }
export type Method = 'GET' | 'POST' | 'PUT' | 'DELETE'
export type Page<T> = { items: T[]; next_cursor?: string | null }

/** An error that the agent gave, or `offline`: it did not answer. */
export class ApiError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail)
  }
  get code(): string {
    return this.problem.code
  }
}

let csrf = ''
/** The value that goes along with whatever changes something. */
export function setCsrf(value: string): void {
  csrf = value
}

const listeners = { signedOut: () => {}, answered: (_: boolean) => {}, renew: async () => false }
/** Who is told when the session is over, and whether the agent answers; and who takes up the session that the cookie names now, and says
 *  whether it is the same person's. */
export function onState(told: Partial<typeof listeners>): void {
  Object.assign(listeners, told)
}

function offline(): ApiError {
  const text = 'The agent on this device does not answer.'
  return new ApiError({ code: 'offline', title: text, detail: text, status: 0, trace_id: '' })
}

export type Extras = { body?: unknown; rawBody?: string; headers?: Record<string, string>; signal?: AbortSignal; head?: (headers: Headers) => void }

/** Sends a request. Throws an `ApiError`; an abort as it comes. Whoever signs in anew in another tab has another value for what changes
 *  something: then it is asked for and the request sent once more, for one that was refused so has done nothing. */
export async function api<T>(method: Method, path: string, extras: Extras = {}): Promise<T> {
  try {
    return await once<T>(method, path, extras)
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== 'csrf' || !(await listeners.renew())) throw error
    return once<T>(method, path, extras)
  }
}

async function once<T>(method: Method, path: string, extras: Extras): Promise<T> {
  const headers: Record<string, string> = { accept: 'application/json', ...extras.headers }
  const body = extras.rawBody ?? (extras.body === undefined ? undefined : JSON.stringify(extras.body))
  if (body !== undefined) headers['content-type'] = 'application/json'
  if (method !== 'GET' && csrf) headers['x-sigil-csrf'] = csrf
  let response: Response
  try {
    response = await fetch(path, { method, headers, body, signal: extras.signal, cache: 'no-store', redirect: 'error' })
  } catch (error) {
    if (extras.signal?.aborted) throw error
    listeners.answered(false)
    throw offline()
  }
  listeners.answered(true)
  if (response.ok) extras.head?.(response.headers)
  if (response.ok) return (response.status === 204 ? undefined : await response.json()) as T
  const problem = await read(response)
  if (response.status === 401 && path !== '/api/v1/session') listeners.signedOut()
  throw new ApiError(problem)
}

async function read(response: Response): Promise<Problem> {
  try {
    return (await response.json()) as Problem
  } catch {
    const text = `HTTP ${response.status}`
    return { code: 'internal', title: text, detail: text, status: response.status, trace_id: '' }
  }
}

/** What a route answers, with its state: an edit says by it what it was made of. */
export async function getTagged<T>(path: string): Promise<{ data: T; etag: string }> {
  let etag = ''
  const data = await api<T>('GET', path, { head: (headers) => (etag = headers.get('etag') ?? '') })
  return { data, etag }
}
/** Puts this in the place of what had that state; of something new, none. */
export const put = <T>(path: string, body: unknown, etag?: string) => api<T>('PUT', path, { body, headers: etag ? { 'if-match': etag } : {} })
export const get = <T>(path: string, signal?: AbortSignal) => api<T>('GET', path, { signal })
export const post = <T>(path: string, body: unknown = {}) => api<T>('POST', path, { body })
export const del = (path: string) => api<void>('DELETE', path)

/** A part of a path. */
export const seg = encodeURIComponent

/** The problem of whatever was thrown. */
export function problemOf(error: unknown): Problem {
  if (error instanceof ApiError) return error.problem
  const text = error instanceof Error ? error.message : String(error)
  return { code: 'internal', title: text, detail: text, status: 0, trace_id: '' }
}
