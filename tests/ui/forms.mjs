// An MCP server over standard streams whose tools answer the arguments that they got; their schemas are what forms are tried on.

import { appendFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

const RAN = process.argv[2]

export const SCHEMAS = {
  all: {
    type: 'object',
    required: ['title', 'lens'],
    properties: {
      title: { type: 'string', maxLength: 40, description: 'What it is called' },
      lens: { enum: ['front', 'back'] },
      quality: { type: 'integer', minimum: 1, maximum: 100, default: 80 },
      gain: { type: 'number' },
      flash: { type: 'boolean', default: false },
      size: { enum: ['xs', 's', 'm', 'l', 'xl'] },
      day: { type: 'string', format: 'date' },
      note: { type: 'string', maxLength: 2000 },
      maybe: { type: ['string', 'null'] },
      tags: { type: 'array', items: { type: 'string' } },
      area: { $ref: '#/$defs/area' },
    },
    $defs: {
      area: { type: 'object', required: ['x'], properties: { x: { type: 'integer' }, y: { type: 'integer' }, next: { $ref: '#/$defs/area' } } },
    },
  },
  root: {
    type: 'object',
    anyOf: [
      { title: 'By name', properties: { name: { type: 'string' } }, required: ['name'] },
      { title: 'By number', properties: { number: { type: 'integer' } }, required: ['number'] },
    ],
  },
  nothing: { type: 'object', properties: {} },
}

const send = (message) => process.stdout.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\n')

if (RAN) {
  createInterface({ input: process.stdin }).on('line', (line) => {
    const { id, method, params } = JSON.parse(line)
    if (method === 'initialize') {
      send({ id, result: { protocolVersion: params.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: 'forms', version: '1' } } })
    } else if (method === 'tools/list') {
      const tools = Object.entries(SCHEMAS).map(([name, inputSchema]) => ({ name, description: `Form ${name}`, inputSchema }))
      send({ id, result: { tools } })
    } else if (method === 'tools/call') {
      appendFileSync(RAN, `forms.${params.name}\n`)
      send({ id, result: { content: [{ type: 'text', text: JSON.stringify(params.arguments ?? {}) }] } })
    } else if (method === 'ping') {
      send({ id, result: {} })
    } else if (id !== undefined) {
      send({ id, error: { code: -32601, message: 'unknown' } })
    }
  })
}
