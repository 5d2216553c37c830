// The official clients of MCP in TypeScript, of both eras, over HTTP and over pipes.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { join } from 'node:path'

/** What a client can do, in the same words for both. */
export function clients(packages, sigil) {
  const need = createRequire(join(packages, 'package.json'))
  const newer = () => {
    const { Client, StreamableHTTPClientTransport } = need('@modelcontextprotocol/client')
    const { StdioClientTransport } = need('@modelcontextprotocol/client/stdio')
    const client = new Client({ name: 'client', version: '2' }, { versionNegotiation: { mode: { pin: '2026-07-28' } } })
    return { client, call: (params, options) => client.callTool(params, options), StreamableHTTPClientTransport, StdioClientTransport }
  }
  const older = () => {
    const { Client } = need('@modelcontextprotocol/sdk/client/index.js')
    const { StreamableHTTPClientTransport } = need('@modelcontextprotocol/sdk/client/streamableHttp.js')
    const { StdioClientTransport } = need('@modelcontextprotocol/sdk/client/stdio.js')
    const client = new Client({ name: 'sdk', version: '1' })
    return { client, call: (params, options) => client.callTool(params, undefined, options), StreamableHTTPClientTransport, StdioClientTransport }
  }
  const open = async (kind, way, agent, started) => {
    const { client, call, StreamableHTTPClientTransport, StdioClientTransport } = kind()
    const transport =
      way === 'http'
        ? new StreamableHTTPClientTransport(new URL('/mcp', agent.http), { requestInit: { headers: { authorization: `Bearer ${agent.token}` } } })
        : new StdioClientTransport(started ?? { command: sigil, args: ['mcp', '--as', 'typescript', '--home', agent.home] })
    await client.connect(transport)
    return {
      list: async () => (await client.listTools()).tools.map((tool) => tool.name),
      call: (name, given = {}, options) => call({ name, arguments: given }, options),
      close: () => client.close(),
    }
  }
  return {
    'TypeScript client 2.4.0, 2026-07-28': (...how) => open(newer, ...how),
    'TypeScript SDK 1.32.2, 2025-11-25': (...how) => open(older, ...how),
  }
}

/** Everything but what waits for a device, with a client. `taken` answers how often a run was stopped by its client. */
export async function everything(client, { until, taken }) {
  const names = await client.list()
  assert.deepEqual(names, [...names].sort())
  for (const name of ['shed__kit_test_simple_text', 'sigil_call_status', 'desk__device_info']) assert.ok(names.includes(name), name)
  const kinds = (result) => result.content.map((it) => it.type)
  const text = await client.call('shed__kit_test_simple_text')
  assert.deepEqual(text.content, [{ type: 'text', text: 'This is a simple text response for testing.' }])
  assert.deepEqual(kinds(await client.call('shed__kit_test_image_content')), ['image'])
  const structured = await client.call('shed__kit_structured', { text: 'ä b' })
  assert.deepEqual(structured.structuredContent, { text: 'ä b', length: 3 })
  const bad = await client.call('shed__kit_test_error_handling')
  assert.ok(bad.isError && JSON.stringify(bad.content).includes('intentionally'), JSON.stringify(bad))
  const heard = []
  const slow = await client.call('shed__kit_slow_compute', { seconds: 1, label: 'x' }, { onprogress: (it) => heard.push(it) })
  assert.equal(slow.content[0].text, 'done: x')
  assert.ok(heard.length >= 2 && heard.every((it, at) => at === 0 || it.progress > heard[at - 1].progress), JSON.stringify(heard))
  const before = taken()
  const hangsUp = new AbortController()
  const stopped = client.call('shed__kit_slow_compute', { seconds: 30 }, { signal: hangsUp.signal }).catch((error) => error)
  await new Promise((wake) => setTimeout(wake, 700))
  hangsUp.abort()
  await stopped
  await until('the tool was stopped', () => taken() > before, 5_000)
}

/** A call for a device that is away is answered at once, and how it stands afterwards. */
export async function queued(client, label) {
  const began = Date.now()
  const result = await client.call('shed__note', { text: label })
  const took = Date.now() - began
  assert.equal(result.structuredContent.state, 'queued', JSON.stringify(result))
  return { took, id: result.structuredContent.call_id, status: async () => (await client.call('sigil_call_status', { call_id: result.structuredContent.call_id, wait_s: 5 })).structuredContent }
}
