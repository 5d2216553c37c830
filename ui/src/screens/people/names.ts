// Names of whoever can ask, of rules and of patterns, as people read them.

import type { Schemas } from '../../api/client'
import { isKey, t } from '../../i18n/index.svelte'
import { plain } from '../../lib/text'
import type { Tone } from '../../lib/words'
import type { IconName } from '../../lib/icons'
import type { Json } from './toml'

/** A rule of a workspace, as `Workspace.rules` has it. */
export type Rule = NonNullable<Schemas['Workspace']['rules']>[string]
/** All that was said about who may what. */
export type Rights = { people?: Record<string, Json>; workspaces?: Record<string, { [key: string]: Json; rules?: Record<string, Json> }>; [section: string]: Json }
export type Verdict = Schemas['VerdictName']

export const ROLES = ['guest', 'member', 'admin', 'owner'] as const

export const VERDICTS: Record<Verdict, { tone: Tone; icon: IconName }> = {
  allow: { tone: 'ok', icon: 'check' },
  ask: { tone: 'wait', icon: 'hand' },
  deny: { tone: 'bad', icon: 'ban' },
}

/** A principal or whom a rule is about, without what machines put before it. */
export function who(name: string): string {
  const group = `who.${name.replace(':', '.')}`
  if (isKey(group)) return t(group)
  const [, agent] = /^agent:(.+)$/.exec(name) ?? []
  if (agent) return t('who.agent.of', { agent: plain(agent.split('/')[1] ?? ''), person: plain(agent.split('/')[0] ?? '') })
  const [, device] = /^device:(.+)$/.exec(name) ?? []
  if (device) return t('who.device.named', { node: plain(device) })
  return plain(name.replace(/^person:/, ''))
}

/** Patterns of names; none were said, or one that fits everything: all. */
export function patterns(list: string[] | null | undefined, all: string): string {
  if (!list || list.includes('*')) return all
  return list.map(plain).join(', ') || t('rule.nothing')
}

/** What a rule says, in a sentence. */
export function sentence(rule: Rule): string {
  const values = {
    who: (rule.who ?? ['everyone']).map(who).join(', '),
    tools: patterns(rule.tools, t('rule.all.tools')),
    nodes: patterns(rule.nodes, t('rule.all.nodes')),
  }
  return t(`rule.${rule.verdict}`, values)
}

/** A name that the mesh takes, made of one that a person writes. */
export function slug(name: string): string {
  const letters = name.toLowerCase().replace(/ß/g, 'ss').normalize('NFKD').replace(/[\u0300-\u036f]/g, '')
  return letters.replace(/[^a-z0-9]+/g, '-').replace(/^-+|-+$/g, '').slice(0, 63)
}

/** A list that was typed with commas; nothing: none was said. */
export function listed(text: string): string[] | undefined {
  const parts = text.split(/[\s,]+/).filter(Boolean)
  return parts.length ? parts : undefined
}
