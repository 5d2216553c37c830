// Outside clients of MCP against a mesh of real agents: node run.mjs SIGIL PACKAGES PYTHON [FILTER]
//
// PACKAGES is a directory with the node_modules of package.json, PYTHON one with what is in requirements.txt. `desk` is asked; what it is asked for runs on `shed`, and is counted
// by the file that its tools write. The conformance suite asks `hub`, whose door shows those tools under the names that the suite knows.

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, request } from 'node:http'
import { join, resolve } from 'node:path'
import { Agent, Fleet, until } from '../ui/fleet.mjs'
import { clients, everything, queued } from './clients.mjs'

const [sigil, packages, python, only = ''] = process.argv.slice(2)
const HERE = import.meta.dirname
const modules = resolve(packages, 'node_modules')
const SERVER = 'kit'

class Mesh extends Fleet {
  async start(name, settings = '', environment = {}) {
    const agent = new Agent(this, name)
    writeFileSync(join(agent.home, 'sigil.toml'), `[discovery]\nlan = false\n[storage]\nfree_min = "1MB"\n${settings}`)
    this.agents.push(agent)
    Object.assign(process.env, environment)
    await agent.up()
    for (const variable of Object.keys(environment)) delete process.env[variable]
    agent.token = (await agent.cli('token')).token
    return agent
  }

  async add(inviter, name, settings, environment) {
    const agent = await this.start(name, settings, environment)
    const { code } = await inviter.cli('invite', '--tier', 'owner')
    await agent.cli('join', code)
    agent.status = await agent.cli('status')
    agent.token = (await agent.cli('token')).token
    return agent
  }
}

/** The suite sends no token: this adds it, and leaves all else as it comes, above all the names of strangers. */
function admit(agent) {
  const own = agent.http.host
  return new Promise((listening) => {
    const proxy = createServer((asked, answer) => {
      const here = `127.0.0.1:${proxy.address().port}`
      const headers = { ...asked.headers, authorization: `Bearer ${agent.token}`, 'sigil-mcp-profile': 'full' }
      for (const name of ['host', 'origin']) if (headers[name]) headers[name] = headers[name].replace(here, own)
      const passed = request({ host: agent.http.hostname, port: agent.http.port, method: asked.method, path: asked.url, headers }, (got) => {
        answer.writeHead(got.statusCode, got.headers)
        answer.flushHeaders()
        got.pipe(answer)
      })
      passed.on('error', () => answer.destroy())
      // Who hangs up here has hung up there.
      answer.on('close', () => passed.destroy())
      asked.pipe(passed)
    })
    proxy.listen(0, '127.0.0.1', () => listening({ url: `http://127.0.0.1:${proxy.address().port}/mcp`, close: () => proxy.closeAllConnections() ?? proxy.close() }))
  })
}

/** Runs a program; its exit code and all that it says. */
function run(command, args, { input, patience = 120_000, env = {} } = {}) {
  return new Promise((ended) => {
    const child = spawn(command, args, { env: { ...process.env, ...env }, cwd: packages })
    const said = { out: '', err: '' }
    const timer = setTimeout(() => child.kill('SIGKILL'), patience)
    child.stdout.on('data', (piece) => (said.out += piece))
    child.stderr.on('data', (piece) => (said.err += piece))
    child.on('close', (code) => clearTimeout(timer) ?? ended({ code, ...said }))
    child.stdin.end(input)
  })
}

const conformance = join(modules, '@modelcontextprotocol/conformance/dist/index.js')
const inspector = join(modules, '@modelcontextprotocol/inspector/clients/launcher/build/index.js')
const mesh = new Mesh(resolve(sigil))
const tests = []
const test = (name, what) => tests.push({ name, what })
const started = Date.now()

async function suite(revision, scored, notes) {
  const proxy = await admit(hub)
  const before = ranAt(shed).length
  const { code, out, err } = await run(process.execPath, [conformance, 'server', '--url', proxy.url, '--requirements', revision])
  proxy.close()
  if (process.env.SIGIL_TEST_MCP_VERBOSE) console.log(out + err)
  const summary = out.slice(out.lastIndexOf('=== SUMMARY'))
  const [all, unscored = ''] = summary.split('Not scored for')
  const passed = (text) => [...text.matchAll(/^\s*✓ ([\w-]+)/gm)].map(([, name]) => name)
  const others = passed(unscored)
  const of = passed(all).filter((name) => !others.includes(name))
  notes.push(`${of.length} of ${scored} scored scenarios, ${summary.match(/Total: .*/)?.[0]}`, `not scored, passed: ${others.join(', ')}`)
  const left = [...unscored.matchAll(/^\s*✗ (.*)/gm)].map(([, name]) => name)
  if (left.length) notes.push(`not scored, failed: ${left.join(', ')}`)
  const ran = ranAt(shed).slice(before).filter((line) => !line.includes(' '))
  notes.push(`${ran.length} runs of ${new Set(ran).size} tools on another device`)
  if (code !== 0) throw new Error(`the suite failed\n${out.slice(-6000)}\n${err.slice(-1000)}`)
  assert.equal(of.length, scored)
  assert.deepEqual(left.filter((name) => name.startsWith('tasks-')), [])
  assert.ok(new Set(ran).size >= 7, `${[...new Set(ran)]}`)
  return summary
}

const ranAt = (agent) => (existsSync(agent.ran) ? readFileSync(agent.ran, 'utf8').trim().split('\n') : [])

/** The clients of PyPI: what each says. */
async function pypi(...more) {
  const args = [join(HERE, 'clients.py'), resolve(sigil), desk.home, new URL('/mcp', desk.http).href, desk.token, shed.ran, ...more]
  const { code, out, err } = await run(python, args)
  assert.equal(code, 0, `${out}\n${err.slice(-3000)}`)
  return out.trim().split('\n').map((line) => JSON.parse(line))
}

const fixture = `[tools.note]
command = "sh"
args = ["-c", ${JSON.stringify(`echo note >> ${join(mesh.root, 'shed/ran')}; cat`)}]
effect = "once"
[mcp_servers.${SERVER}]
command = ${JSON.stringify(process.execPath)}
args = [${JSON.stringify(join(HERE, 'fixture.mjs'))}, ${JSON.stringify(join(mesh.root, 'shed/ran'))}]
[mcp_servers.${SERVER}2]
command = ${JSON.stringify(process.execPath)}
args = [${JSON.stringify(join(HERE, 'fixture.mjs'))}, ${JSON.stringify(join(mesh.root, 'shed/ran'))}, "protocol_error_job"]
`
const hub = await mesh.start('hub', '', { SIGIL_TEST_MCP_FIXTURE: SERVER, SIGIL_TEST_MCP_TASK_MS: '500' })
const shed = await mesh.add(hub, 'shed', fixture)
const desk = await mesh.add(hub, 'desk')
const taken = () => ranAt(shed).filter((line) => line.includes('taken back')).length
const typescript = clients(resolve(packages), resolve(sigil))

test('conformance 2026-07-28', (notes) => suite('2026-07-28', 37, notes))
test('conformance 2025-11-25', (notes) => suite('2025-11-25', 30, notes))

for (const [name, open] of Object.entries(typescript)) {
  for (const way of ['http', 'stdio']) {
    test(`${name}, ${way}`, async () => {
      const client = await open(way, desk)
      await everything(client, { until, taken }).finally(() => client.close())
    })
  }
}
for (const way of ['http', 'stdio']) {
  test(`Inspector 2.12.0, ${way}`, async (notes) => {
    const target =
      way === 'http'
        ? [new URL('/mcp', desk.http).href, '--header', `Authorization: Bearer ${desk.token}`]
        : ['--', resolve(sigil), 'mcp', '--as', 'inspector', '--home', desk.home]
    const ask = async (...args) => {
      const [first, ...rest] = target
      const all = way === 'http' ? [...target, ...args] : [...args, first, ...rest]
      const { code, out, err } = await run(process.execPath, [inspector, '--cli', ...all], { env: { HOME: mesh.root } })
      assert.equal(code, 0, `${out.slice(-2000)}\n${err.slice(-2000)}`)
      return JSON.parse(out)
    }
    const { tools } = await ask('--method', 'tools/list', '--strict')
    notes.push(`${tools.length} tools, none of them with a schema that is not portable`)
    const said = await ask('--method', 'tools/call', '--tool-name', 'shed__kit_structured', '--tool-arg', 'text=hello')
    assert.deepEqual(said.structuredContent, { text: 'hello', length: 5 })
  })
}
test('a bundle (.mcpb), mcpb 2.1.2', async () => {
  const [file, dir] = [join(mesh.root, 'sigil.mcpb'), join(mesh.root, 'bundle')]
  await desk.cli('mcp', 'config', '--client', 'claude', '--bundle', file)
  const cli = join(modules, '@anthropic-ai/mcpb/dist/cli/cli.js')
  for (const args of [['unpack', file, dir], ['validate', join(dir, 'manifest.json')]]) {
    const { code, out, err } = await run(process.execPath, [cli, ...args])
    assert.equal(code, 0, out + err)
  }
  const { server } = JSON.parse(readFileSync(join(dir, 'manifest.json'), 'utf8'))
  const command = server.mcp_config.command.replace('${__dirname}', dir)
  const client = await typescript['TypeScript SDK 1.32.2, 2025-11-25']('stdio', desk, { command, args: server.mcp_config.args })
  assert.ok((await client.list()).includes('shed__kit_test_simple_text'))
  await client.close()
})
for (const name of ['claude', 'claude-code', 'vscode', 'cursor', 'openclaw', 'other']) {
  test(`sigil mcp config --client ${name}`, async () => {
    const { settings } = await desk.cli('mcp', 'config', '--client', name)
    const { command, args } = (settings.mcpServers ?? settings.servers).sigil
    const client = await typescript['TypeScript SDK 1.32.2, 2025-11-25']('stdio', desk, { command, args })
    assert.ok((await client.list()).includes('sigil_call'))
    await client.close()
  })
}
test('PyPI mcp 2.3.0 and fastmcp 4.2.3', async (notes) => {
  for (const { name, ms } of await pypi()) notes.push(`${name}: ${ms} ms`)
})
test('a device that is away', async (notes) => {
  await shed.down()
  await until('it is away', async () => (await desk.cli('nodes')).items.some((node) => node.node_id === 'shed' && node.state !== 'online'))
  const before = ranAt(shed).length
  const waiting = []
  for (const [name, open] of Object.entries(typescript)) {
    for (const way of ['http', 'stdio']) {
      const client = await open(way, desk)
      waiting.push({ client, name: `${name}, ${way}`, ...(await queued(client, name)) })
    }
  }
  for (const { name, state, took_ms: took, call_id: id } of await pypi('queued')) {
    assert.equal(state, 'queued', name)
    waiting.push({ name, took, id })
  }
  for (const { name, took } of waiting) {
    notes.push(`${name}: queued, answered in ${took} ms`)
    assert.ok(took < 2_000, name)
  }
  await shed.up()
  for (const { id } of waiting) {
    let state
    await until('it is done', async () => (state = (await desk.told('calls', id)).state) === 'done').catch(async (error) => {
      throw new Error(`${error.message} (${JSON.stringify(await desk.told('calls', id))})`)
    })
  }
  for (const { client, status } of waiting.filter((it) => it.client)) {
    assert.equal((await status()).state, 'done')
    await client.close()
  }
  assert.equal(ranAt(shed).length - before, waiting.length, 'each has run once')
})

let failed = 0
try {
  await until('the tools of shed are known', async () =>
    (await hub.cli('nodes')).items.some((node) => node.node_id === 'shed' && node.state === 'online' && node.tools.length > 10),
  )
  for (const { name, what } of tests.filter(({ name }) => name.includes(only))) {
    const began = Date.now()
    const notes = []
    try {
      await what(notes)
      console.log(`ok    ${name}, ${Date.now() - began} ms`)
    } catch (error) {
      failed += 1
      console.log(`FAILED ${name}: ${error.stack}`)
    }
    for (const note of notes) console.log(`      ${note}`)
  }
} finally {
  await mesh.stop()
}
console.log(`${tests.length} of outside clients of MCP, ${failed} failed, ${Math.round((Date.now() - started) / 1000)} s`)
process.exit(failed ? 1 : 0)
