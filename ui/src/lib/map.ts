// Where devices stand on the map, and which links are drawn: of what this device knows, and nothing more.

import type { Schemas } from '../api/client'

export type Spot = { node: Schemas['Node']; x: number; y: number }
export type Line = { from: Spot; to: Spot; via: Schemas['LinkVia']; rtt?: number | null }

/** A number from 0 to 1 that an identity always has. */
function share(id: string): number {
  let hash = 2166136261
  for (const c of id) hash = Math.imul(hash ^ c.charCodeAt(0), 16777619)
  return (hash >>> 0) / 4294967296
}

/** This device in the middle, the others around it: in the same order at every visit, whoever comes or goes. */
export function spots(nodes: Schemas['Node'][], width: number, height: number, margin: { x: number; y: number }): Spot[] {
  const self = nodes.filter((node) => node.self)
  const others = nodes.filter((node) => !node.self).sort((a, b) => share(a.peer_id) - share(b.peer_id))
  const middle = { x: width / 2, y: height / 2 }
  const around = others.map((node, i) => {
    const angle = (2 * Math.PI * i) / others.length - Math.PI / 2 + (others.length === 2 ? Math.PI / 2 : 0)
    return { node, x: middle.x + Math.cos(angle) * (width / 2 - margin.x), y: middle.y + Math.sin(angle) * (height / 2 - margin.y) }
  })
  return [...self.map((node) => ({ node, ...middle })), ...around]
}

/** Own links; one that is passed on is drawn by way of who passes it on. */
export function lines(spots: Spot[], links: Schemas['Link'][]): Line[] {
  const at = (peer: string) => spots.find((spot) => spot.node.peer_id === peer)
  const self = spots.find((spot) => spot.node.self)
  return links.flatMap((link) => {
    const to = at(link.peer_id)
    const by = link.relayed_by[0] && at(link.relayed_by[0].peer_id)
    const from = link.via === 'relay' && by ? by : self
    return from && to ? [{ from, to, via: link.via, rtt: link.rtt_ms }] : []
  })
}
