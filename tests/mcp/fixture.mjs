// An MCP server of the tests, over standard streams: the tools that the conformance suite of MCP calls, and a few more for its clients.
//
// node fixture.mjs FILE [TOOL]: FILE gets a line for each run that begins. With TOOL this one alone, else all but the one that crashes.

import { appendFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

const [ran, only] = process.argv.slice(2)
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
// A second of nothing would be longer and say no more: a head, and one sample.
const WAV = 'UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQIAAAAAAA=='
const SCHEMA = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  type: 'object',
  $defs: { address: { $anchor: 'addressDef', type: 'object', properties: { street: { type: 'string' }, city: { type: 'string' } } } },
  properties: {
    name: { type: 'string' },
    address: { $ref: '#/$defs/address' },
    contactMethod: { type: 'string', enum: ['phone', 'email'] },
    phone: { type: 'string' },
    email: { type: 'string' },
  },
  allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
  if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
  then: { required: ['phone'] },
  else: { required: ['email'] },
  additionalProperties: false,
}

const text = (said) => ({ type: 'text', text: said })
const image = { type: 'image', mimeType: 'image/png', data: PNG }
const none = { type: 'object', properties: {} }
const number = { type: 'object', properties: { seconds: { type: 'number', minimum: 0, maximum: 60 }, label: { type: 'string' } } }
/** Name, description, schema of arguments, and what it does; a schema of results where it has one. */
const TOOLS = {
  test_simple_text: ['Answers a text', none, () => [text('This is a simple text response for testing.')]],
  test_image_content: ['Answers an image', none, () => [image]],
  test_audio_content: ['Answers a sound', none, () => [{ type: 'audio', mimeType: 'audio/wav', data: WAV }]],
  test_embedded_resource: [
    'Answers a resource',
    none,
    () => [{ type: 'resource', resource: { uri: 'test://embedded-resource', mimeType: 'text/plain', text: 'This is an embedded resource content.' } }],
  ],
  test_multiple_content_types: [
    'Answers several things',
    none,
    () => [
      text('Multiple content types test:'),
      image,
      { type: 'resource', resource: { uri: 'test://mixed-content-resource', mimeType: 'application/json', text: '{"test":"data","value":123}' } },
    ],
  ],
  test_error_handling: [
    'Fails',
    none,
    () => {
      throw new Error('This tool intentionally returns an error for testing')
    },
  ],
  test_tool_with_progress: [
    'Tells how far it is',
    none,
    async (_, tell) => {
      for (const step of [0, 50, 100]) {
        tell(step, 100)
        await sleep(300)
      }
      return [text('It went all the way.')]
    },
  ],
  json_schema_2020_12_tool: ['Tool with JSON Schema 2020-12 features', SCHEMA, () => [text('It is as it should be.')]],
  slow_compute: [
    'Takes its time',
    number,
    async ({ seconds = 1, label = '' }, tell) => {
      for (let past = 0; past < seconds; past += 0.25) {
        tell(past, seconds)
        await sleep(250)
      }
      return [text(`done: ${label}`)]
    },
  ],
  greet: ['Greets', { type: 'object', properties: { name: { type: 'string' } } }, ({ name = 'you' }) => [text(`Hello, ${name}!`)]],
  failing_job: [
    'Fails after a second',
    none,
    async () => {
      await sleep(1000)
      throw new Error('It failed, as it should.')
    },
  ],
  protocol_error_job: [
    'Ends its server',
    none,
    async () => {
      await sleep(1000)
      process.exit(9)
    },
  ],
  structured: [
    'Answers what it is given, and how long that is',
    { type: 'object', properties: { text: { type: 'string' } }, required: ['text'] },
    ({ text: said }) => ({ text: said, length: said.length }),
    { type: 'object', properties: { text: { type: 'string' }, length: { type: 'integer' } }, required: ['text', 'length'] },
  ],
  test_trigger_tool_change: [
    'Changes the list of tools',
    none,
    () => {
      changes += 1
      say({ method: 'notifications/tools/list_changed' })
      return [text('The list has changed.')]
    },
  ],
}
let changes = 0
/** Requests that were taken back. */
const cancelled = new Set()

const say = (message) => process.stdout.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`)

function list() {
  const offered = ([name]) => (only ? name === only : name !== 'protocol_error_job')
  const all = Object.entries(TOOLS).filter(offered).map(([name, [description, inputSchema, , outputSchema]]) => ({ name, description, inputSchema, outputSchema }))
  // Another one, and gone again.
  return changes % 2 ? [...all, { name: 'passing', description: 'Comes and goes', inputSchema: none }] : all
}

async function call(id, { name, arguments: given = {}, _meta: meta = {} }) {
  appendFileSync(ran, `${name}\n`)
  const tell = (progress, total) => {
    if (cancelled.has(id)) throw new Error('it was taken back')
    if (meta.progressToken !== undefined) say({ method: 'notifications/progress', params: { progressToken: meta.progressToken, progress, total } })
  }
  try {
    const made = await TOOLS[name][2](given, tell)
    return Array.isArray(made) ? { content: made } : { structuredContent: made, content: [text(JSON.stringify(made))] }
  } catch (error) {
    appendFileSync(ran, `${name} ended: ${error.message}\n`)
    return { isError: true, content: [text(error.message)] }
  }
}

createInterface({ input: process.stdin }).on('line', async (line) => {
  const { id, method, params = {} } = JSON.parse(line)
  if (method === 'notifications/cancelled') cancelled.add(params.requestId)
  if (id === undefined || method === undefined) return
  if (method === 'initialize') {
    say({ id, result: { protocolVersion: '2025-11-25', capabilities: { tools: { listChanged: true } }, serverInfo: { name: 'fixture', version: '1' } } })
  } else if (method === 'tools/list') {
    say({ id, result: { tools: list() } })
  } else if (method === 'tools/call' && TOOLS[params.name]) {
    say({ id, result: await call(id, params) })
  } else {
    say({ id, error: { code: method === 'tools/call' ? -32602 : -32601, message: `there is no ${method}` } })
  }
})
