// Words, icons and tones of states: always all three, so that none depends on colour.

import type { Schemas } from '../api/client'
import { t, type Key } from '../i18n/index.svelte'
import type { IconName } from './icons'

export type Tone = 'ok' | 'run' | 'wait' | 'bad' | 'away' | 'plain'
export type Badge = { tone: Tone; icon: IconName; word: string }

export const OPEN = ['accepted', 'asking', 'queued', 'dispatched', 'running']
export const isOpen = (state: string): boolean => OPEN.includes(state)

const CALLS: Record<string, { tone: Tone; icon: IconName }> = {
  accepted: { tone: 'wait', icon: 'inbox' },
  asking: { tone: 'wait', icon: 'hand' },
  queued: { tone: 'wait', icon: 'hourglass' },
  dispatched: { tone: 'run', icon: 'send' },
  running: { tone: 'run', icon: 'play' },
  done: { tone: 'ok', icon: 'check' },
  failed: { tone: 'bad', icon: 'x' },
  interrupted: { tone: 'bad', icon: 'unplug' },
  expired: { tone: 'away', icon: 'timer' },
  cancelled: { tone: 'away', icon: 'square' },
  denied: { tone: 'bad', icon: 'ban' },
  undeliverable: { tone: 'away', icon: 'trash' },
}

export function callBadge(call: { state: string; node: string }): Badge {
  const known = CALLS[call.state] ?? { tone: 'plain' as const, icon: 'help' as const }
  return { ...known, word: callWord(call.state, call.node) }
}

export function callWord(state: string, node: string): string {
  if (state in CALLS) return t(`call.state.${state}` as Key, { node })
  return state
}

/** What was said of its end beyond the bare word of its state. */
export const beyond = (call: { state: string; reason?: string | null }): string => (call.reason && call.reason !== call.state ? call.reason : '')

export function nodeBadge(node: Pick<Schemas['Node'], 'state' | 'self'>): Badge {
  if (node.state === 'pending') return { tone: 'wait', icon: 'hand', word: t('node.state.pending') }
  if (node.state === 'online') return { tone: 'ok', icon: 'check', word: t('node.state.online') }
  return { tone: 'away', icon: 'moon', word: t('node.state.offline') }
}

export const CHECKS: Record<string, { tone: Tone; icon: IconName; key: Key }> = {
  ok: { tone: 'ok', icon: 'check', key: 'doctor.ok' },
  warn: { tone: 'wait', icon: 'alert', key: 'doctor.warn' },
  error: { tone: 'bad', icon: 'x', key: 'doctor.error' },
}
