// What the parts of the screen share: the one workspace that has a memory today, and why something was found.

import type { Schemas } from '../../api/client'
import { t, type Key } from '../../i18n/index.svelte'

export const HOME = '/api/v1/workspaces/home'
export type Said = Schemas['SaidPart']

const PARTS = ['words', 'meaning', 'talk', 'date', 'who'] as const

/** The parts of a score that speak for it, the strongest first, as words. */
export function reasons(parts: Schemas['ScoreParts']): string {
  const found = PARTS.filter((part) => parts[part] > 0).sort((a, b) => parts[b] - parts[a])
  return found.map((part) => t(`memory.by.${part}` as Key)).join(', ')
}
