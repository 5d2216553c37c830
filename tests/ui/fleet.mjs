// Real agents on loopback, each in a home of its own that is thrown away. What a tool has done is told by files that it writes,
// never by what an agent says of it.

import { execFile } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const HERE = import.meta.dirname

/** A PNG of 1 by 1. */
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='

/** Waits until `what` answers something true. */
export async function until(name, what, patience = 20_000) {
  const end = Date.now() + patience
  for (;;) {
    const found = await what()
    if (found) return found
    if (Date.now() > end) throw new Error(`not within ${patience} ms: ${name}`)
    await new Promise((wake) => setTimeout(wake, 50))
  }
}

export class Agent {
  constructor(fleet, name) {
    Object.assign(this, { sigil: fleet.sigil, name, home: join(fleet.root, name) })
    this.ran = join(this.home, 'ran')
    mkdirSync(this.home, { mode: 0o700 })
    const tool = (file, text) => {
      const path = join(this.home, file)
      writeFileSync(path, `#!/bin/sh\n${text}\n`)
      chmodSync(path, 0o755)
      return JSON.stringify(path)
    }
    const note = `echo "$SIGIL_TOOL" >> ${this.ran}`
    writeFileSync(
      join(this.home, 'sigil.toml'),
      `[discovery]
lan = false
[storage]
free_min = "1MB"
[tools.count]
command = ${tool('count.sh', `${note}; cat`)}
effect = "once"
description = "Answers what it is given"
[tools.photo]
command = ${tool('photo.sh', `${note}; echo ${PNG} | base64 -d > "$SIGIL_OUT/photo.png"; echo '{"lens":"front","ok":true}'`)}
effect = "once"
description = "Takes a picture"
[tools.slow]
command = ${tool('slow.sh', `${note}; i=0; while [ $i -lt 60 ]; do echo "::progress step $i of 60" >&2; sleep 0.5; i=$((i+1)); done`)}
effect = "once"
description = "Takes half a minute"
[tools.bad]
command = ${tool('bad.sh', `${note}; echo "the lens is dirty" >&2; exit 3`)}
effect = "none"
description = "Fails"
[tools.hostile]
command = ${tool('hostile.sh', `${note}; cat ${join(HERE, 'hostile.txt')}`)}
effect = "none"
description = "Says <img src=x onerror=alert(1)> and <script>alert(2)</script>"
[mcp_servers.forms]
command = ${JSON.stringify(process.execPath)}
args = [${JSON.stringify(join(HERE, 'forms.mjs'))}, ${JSON.stringify(this.ran)}]
`,
    )
  }

  /** Runs a command, and answers its JSON. */
  async cli(...args) {
    const { stdout } = await run(this.sigil, ['--home', this.home, '--json', ...args], { timeout: 60_000 })
    return stdout.trim() ? JSON.parse(stdout) : {}
  }

  /** As `cli`, also where the command says that something did not go well. */
  async told(...args) {
    try {
      return await this.cli(...args)
    } catch (error) {
      if (!error.stdout) throw error
      return JSON.parse(error.stdout)
    }
  }

  async up() {
    await this.cli('up', '--detach', '--name', this.name)
    this.status = await this.cli('status')
    this.http = new URL(this.status.endpoints.http.startsWith('http') ? this.status.endpoints.http : `http://${this.status.endpoints.http}`)
    return this
  }

  async down() {
    await this.cli('down').catch(() => {})
  }

  /** A new code for the page. */
  ui() {
    return this.cli('ui')
  }

  /** The address of this device for others. */
  get address() {
    const port = this.status.endpoints.quic[0].split(':').at(-1)
    return `127.0.0.1:${port}`
  }

  /** How often a tool has run. */
  runs(tool) {
    if (!existsSync(this.ran)) return 0
    return readFileSync(this.ran, 'utf8').split('\n').filter((line) => line === tool).length
  }

  signal(name) {
    process.kill(this.status.pid, name)
  }
}

export class Fleet {
  constructor(sigil) {
    this.sigil = sigil
    this.root = mkdtempSync(join(tmpdir(), 'sigil-ui-'))
    this.agents = []
  }

  async start(name) {
    const agent = new Agent(this, name)
    this.agents.push(agent)
    return agent.up()
  }

  async join(inviter, name, tier = 'owner') {
    const agent = await this.start(name)
    const { code } = await inviter.cli('invite', '--tier', tier)
    await agent.cli('join', code)
    agent.status = await agent.cli('status')
    await until(`${name} is seen by ${inviter.name}`, async () =>
      (await inviter.cli('nodes')).items.some((node) => node.node_id === name && node.state === 'online' && node.tools.length > 4),
    )
    return agent
  }

  async stop() {
    await Promise.all(this.agents.map((agent) => agent.down()))
    rmSync(this.root, { recursive: true, force: true })
  }
}

/** Starts a server that only tells which requests came, with their heads. */
export async function listener() {
  const { createServer } = await import('node:http')
  const seen = []
  const server = createServer((request, answer) => {
    seen.push({ url: request.url, headers: request.headers })
    answer.setHeader('content-type', 'text/html')
    answer.end('<!doctype html><title>another</title>')
  })
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready))
  return { seen, port: server.address().port, close: () => server.close() }
}

