import type { Schemas } from '../api/client'

/** Tools that wait, device by device. */
export function byDevice(tools: Schemas['PendingToolItem'][]): Schemas['PendingToolItem'][][] {
  const devices = new Map<string, Schemas['PendingToolItem'][]>()
  for (const tool of tools) devices.set(tool.peer_id, [...(devices.get(tool.peer_id) ?? []), tool])
  return [...devices.values()]
}
