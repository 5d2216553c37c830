// What a route answers, kept as fresh as the events say. The answer of the agent is the only state: nothing is drawn from what
// was clicked.

import { get, problemOf, type Problem } from '../api/client'
import { live, type Topic } from './live.svelte'

/** Least time between two questions of one route, milliseconds. */
const GAP = 250
/** A visible list is asked anew without any event. */
const EVERY = 60_000
/** Then "still asking" is said. */
const SLOW = 5_000

export class Resource<T> {
  /** The newest answer; it stays while another is on its way, and when that fails. */
  data = $state.raw<T | undefined>()
  /** Why there is no newer one. */
  problem = $state.raw<Problem | undefined>()
  /** Time of the answer. */
  at = $state(0)
  /** True while the first answer takes long. */
  slow = $state(false)
  refresh: () => void = () => {}
}

/** Follows a route for as long as the component lives. `path` may be undefined while nothing is to be asked. */
export function watch<T>(path: () => string | undefined, topics: Topic[], every = EVERY): Resource<T> {
  const resource = new Resource<T>()
  let shown: string | undefined
  $effect(() => {
    const url = path()
    if (url !== shown) {
      resource.data = undefined
      resource.problem = undefined
      shown = url
    }
    if (!url) return
    const over = new AbortController()
    let asked = 0
    let answered = 0
    let last = 0
    let timer: ReturnType<typeof setTimeout> | undefined
    const slow = setTimeout(() => (resource.slow = resource.data === undefined), SLOW)
    const ask = async () => {
      timer = undefined
      last = Date.now()
      const turn = ++asked
      try {
        const data = await get<T>(url, over.signal)
        // An older answer never replaces a newer one.
        if (turn < answered || over.signal.aborted) return
        answered = turn
        resource.data = data
        resource.problem = undefined
        resource.at = Date.now()
        resource.slow = false
      } catch (error) {
        if (over.signal.aborted || turn < answered) return
        resource.problem = problemOf(error)
        resource.slow = false
      }
    }
    const soon = () => {
      if (live.signedOut || timer !== undefined) return
      timer = setTimeout(() => void ask(), Math.max(0, last + GAP - Date.now()))
    }
    resource.refresh = soon
    soon()
    const stop = live.listen((told) => {
      if (told.topic === 'reset' || topics.includes(told.topic)) soon()
    })
    const pulse = setInterval(() => !document.hidden && live.up && soon(), every)
    return () => {
      over.abort()
      stop()
      clearTimeout(timer)
      clearTimeout(slow)
      clearInterval(pulse)
    }
  })
  return resource
}
