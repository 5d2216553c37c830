// The filter of devices: words, and tokens such as `is:away`, each of which `-` turns around. Every one has to hold.

import type { Schemas } from '../api/client'

type Node = Schemas['Node']

export const TOKENS = ['is:here', 'is:away', 'is:pending', 'is:gateway', 'is:this', 'tier:owner', 'tier:shared', 'tier:ephemeral', 'tool:', 'version:', 'on:']

function glob(pattern: string, text: string): boolean {
  // Only `*` means something; no expression of a stranger is ever run.
  const parts = pattern.toLowerCase().split('*')
  let at = 0
  const low = text.toLowerCase()
  for (const [i, part] of parts.entries()) {
    const found = low.indexOf(part, at)
    if (found < 0 || (i === 0 && found !== 0)) return false
    at = found + part.length
  }
  return parts.length > 1 ? parts.at(-1) === '' || low.endsWith(parts.at(-1) ?? '') : at === low.length
}

function holds(node: Node, token: string): boolean {
  const [kind = '', value = ''] = token.includes(':') ? token.split(/:(.*)/, 2) : ['', token]
  switch (kind) {
    case 'is':
      return (
        { here: node.state === 'online', away: node.state === 'offline', pending: node.state === 'pending', gateway: node.gateway, this: node.self }[value] ?? false
      )
    case 'tier':
      return (node.tier ?? '').startsWith(value)
    case 'tool':
      return node.tools.some((tool) => value === '' || glob(value.includes('*') ? value : `${value}*`, tool.name))
    case 'version':
      return (node.version ?? '').startsWith(value)
    case 'on':
      return (node.platform ?? '').startsWith(value)
    case '':
      return `${node.node_id} ${node.peer_id}`.toLowerCase().includes(value.toLowerCase())
    default:
      return false
  }
}

export function matches(node: Node, filter: string): boolean {
  const tokens = filter.split(/\s+/).filter(Boolean)
  return tokens.every((token) => (token.startsWith('-') && token.length > 1 ? !holds(node, token.slice(1)) : holds(node, token)))
}
