// Calls as lengths of time, a lane for each device: pure, so that what is drawn depends on nothing but calls, window and time.

import type { Schemas } from '../api/client'
import { isOpen } from './words'

type Call = Schemas['Call']
export type Bar = { call: Call; from: number; started: number | undefined; to: number; row: number }
export type Lane = { node: string; bars: Bar[]; rows: number; more: number }

/** Calls at the same time stand below each other, so many; more are counted. */
const ROWS = 4
/** Least length of a bar as a share of the window: one that took a moment is seen and can be hit. */
const LEAST = 0.008

function startOf(call: Call): number | undefined {
  // Of the newest attempt, if it has begun.
  const run = call.history.findLast((row) => row.state === 'running')
  return run ? Date.parse(run.at) : undefined
}

export function endOf(call: Call, now: number): number {
  return isOpen(call.state) ? now : Date.parse(call.history.at(-1)?.at ?? call.created_at)
}

/** Lanes of what happened from `since` to `now`, in the order of names. */
export function lanesOf(calls: Call[], since: number, now: number): Lane[] {
  const lanes = new Map<string, Bar[]>()
  for (const call of calls) {
    const from = Date.parse(call.created_at)
    const to = endOf(call, now)
    if (to < since || from > now) continue
    const list = lanes.get(call.node) ?? []
    list.push({ call, from: Math.max(since, from), started: startOf(call), to: Math.min(now, Math.max(from, to)), row: 0 })
    lanes.set(call.node, list)
  }
  const least = (now - since) * LEAST
  return [...lanes].sort(([a], [b]) => (a < b ? -1 : 1)).map(([node, bars]) => {
    bars.sort((a, b) => a.from - b.from || (a.call.id < b.call.id ? -1 : 1))
    const ends: number[] = []
    let more = 0
    const placed = bars.filter((bar) => {
      const free = ends.findIndex((end) => end <= bar.from)
      const row = free >= 0 ? free : ends.length
      if (row >= ROWS) {
        more++
        return false
      }
      ends[row] = Math.max(bar.to, bar.from + least)
      bar.row = row
      return true
    })
    return { node, bars: placed, rows: Math.max(1, ends.length), more }
  })
}

/** Times to write below the lanes: whole minutes, hours or days, few enough to be read. */
export function ticksOf(since: number, now: number, most: number): number[] {
  const STEPS = [1, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880].map((minutes) => minutes * 60_000)
  const step = STEPS.find((one) => (now - since) / one <= most) ?? STEPS.at(-1) ?? 1
  const offset = new Date(now).getTimezoneOffset() * 60_000
  const ticks = []
  for (let at = Math.ceil((since - offset) / step) * step + offset; at < now; at += step) ticks.push(at)
  return ticks
}
