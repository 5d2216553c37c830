// The web page in a real browser, against real agents: node run.mjs SIGIL [FILTER]

import assert from 'node:assert/strict'
import { request as httpRequest } from 'node:http'
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { findings, launch, overflow, Watched } from './browser.mjs'
import { add as addEndings } from './endings.mjs'
import { Fleet, listener, until } from './fleet.mjs'
import { add as addLook } from './look.mjs'
import { add } from './screens.mjs'

const [sigil, only = ''] = process.argv.slice(2)
const started = Date.now()
const fleet = new Fleet(sigil)
const browser = await launch()
const laptop = await fleet.start('laptop')
const server = await fleet.join(laptop, 'server')
const tablet = await fleet.join(laptop, 'tablet')
const guest = await fleet.start('guest')
const codes = []
async function ui() {
  const way = await laptop.ui()
  codes.push(way.code)
  return way
}
const { page: address } = await ui()
const origin = new URL(address).origin
const { hostname, port } = new URL(address)
const watched = new Watched(browser, origin)

/** A request past the browser, with the heads that are given. */
function raw(method, path, headers = {}, body) {
  return new Promise((answer, fail) => {
    const request = httpRequest({ host: '127.0.0.1', port, method, path, headers: { host: `${hostname}:${port}`, ...(body ? { 'content-type': 'application/json' } : {}), ...headers } }, (response) => {
      const pieces = []
      response.on('data', (piece) => pieces.push(piece))
      response.on('end', () => {
        const bytes = Buffer.concat(pieces)
        answer({ status: response.statusCode, headers: response.headers, bytes, text: bytes.toString() })
      })
    })
    request.on('error', fail)
    request.end(body)
  })
}
const codeOf = (answer) => JSON.parse(answer.text).code
const signIn = (code, headers = {}) => raw('POST', '/api/v1/session', headers, JSON.stringify({ code }))

async function signedIn(options) {
  const { url } = await ui()
  const context = await watched.context(options)
  const page = await context.newPage()
  await page.goto(url)
  await page.waitForSelector('h1:has-text("Home")')
  return { context, page }
}

process.on('unhandledRejection', async (error) => {
  console.log(error)
  await fleet.stop()
  process.exit(1)
})
const tests = []
const test = (name, run) => tests.push({ name, run })
let me
const go = async (hash) => {
  await me.page.goto(address + hash)
}
const shown = (text, options = {}) => me.page.getByText(text, options).first().waitFor({ timeout: options.timeout ?? 15_000 })

test('headers: each answer has the policy of what it is', async () => {
  const page = await raw('GET', '/')
  const assets = [...page.text.matchAll(/\/assets\/[\w.-]+/g)].map(([path]) => path)
  assert.equal(page.status, 200)
  assert.ok(assets.length >= 2)
  for (const path of ['/', ...assets, '/manifest.webmanifest', '/icon.svg', '/sw.js']) {
    const { status, headers } = await raw('GET', path)
    assert.equal(status, 200, path)
    const policy = headers['content-security-policy']
    for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "form-action 'none'", "base-uri 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", 'trusted-types svelte-trusted-html sigil-worker']) {
      assert.ok(policy.split('; ').includes(part), `${path}: ${part}`)
    }
    assert.ok(!/unsafe|\*|https?:|data:/.test(policy), policy)
    assert.match(headers['permissions-policy'], /usb=\(\)/)
    assert.equal(headers['cross-origin-opener-policy'], 'same-origin')
    for (const [name, value] of [['cross-origin-resource-policy', 'same-origin'], ['x-content-type-options', 'nosniff'], ['referrer-policy', 'no-referrer']]) assert.equal(headers[name], value, path)
    assert.equal(headers['cache-control'], path.startsWith('/assets/') ? 'public, max-age=31536000, immutable' : 'no-cache', path)
    assert.equal((await raw('GET', path, { 'if-none-match': headers.etag })).status, 304)
    // Packed for whoever takes that, as another form with a tag of its own.
    assert.equal(headers['content-encoding'], undefined)
    assert.equal(headers.vary, 'accept-encoding', path)
    const accepts = { 'accept-encoding': 'gzip, deflate, br, zstd' }
    const packed = await raw('GET', path, accepts)
    if (packed.headers['content-encoding']) {
      assert.equal(packed.headers['content-encoding'], 'gzip')
      assert.notEqual(packed.headers.etag, headers.etag)
      assert.deepEqual(gunzipSync(packed.bytes), (await raw('GET', path)).bytes, path)
      assert.equal((await raw('GET', path, { ...accepts, 'if-none-match': headers.etag })).status, 200)
      assert.equal((await raw('GET', path, { ...accepts, 'if-none-match': packed.headers.etag })).status, 304)
    } else assert.ok(packed.bytes.length < 512, path)
    assert.equal(packed.headers['content-security-policy'], policy)
  }
  const api = await raw('GET', '/api/v1/status')
  assert.equal(api.status, 401)
  assert.match(api.headers['content-security-policy'], /default-src 'none'.*sandbox/)
  assert.equal(api.headers['cross-origin-resource-policy'], 'same-origin')
  assert.equal(api.headers['cache-control'], 'no-store')
  for (const path of ['/assets/none.js', '/assets/..%2findex.html', '/assets/%2e%2e/sigil.toml']) assert.equal((await raw('GET', path)).status, 404, path)
})

test('a code works once, and under the name of the page alone', async () => {
  const { code } = await ui()
  for (const host of [`127.0.0.1:${port}`, `localhost:${port}`]) {
    const answer = await signIn(code, { host })
    assert.equal(answer.status, 403, host)
    assert.ok(!answer.text.includes(hostname), 'the name is told to nobody')
  }
  assert.equal((await signIn(code, { origin: `http://127.0.0.1:${port}` })).status, 403)
  assert.equal((await signIn(code, { origin: 'http://evil.example' })).status, 403)
  assert.equal((await signIn(code, { 'sec-fetch-site': 'same-site' })).status, 403)
  const answer = await signIn(code.toLowerCase().replace('-', ''))
  assert.equal(answer.status, 200)
  const [cookie] = answer.headers['set-cookie']
  for (const part of ['HttpOnly', 'SameSite=Strict', 'Path=/']) assert.ok(cookie.includes(part), cookie)
  assert.ok(!/domain/i.test(cookie))
  assert.equal(codeOf(await signIn(code)), 'sign_in_used')
  assert.equal(codeOf(await signIn('AAAAA-AAAAA')), 'sign_in_unknown')
  assert.equal((await signIn('no code')).status, 422)
})

test('a cookie alone changes nothing, and counts under the name of the page alone', async () => {
  const { code } = await ui()
  const answer = await signIn(code)
  const cookie = answer.headers['set-cookie'][0].split(';')[0]
  const { csrf } = JSON.parse(answer.text)
  const call = JSON.stringify({ node: 'server', tool: 'count' })
  const before = server.runs('count')
  const made = (headers) => raw('POST', '/api/v1/calls', { cookie, origin, ...headers }, call)
  assert.equal(codeOf(await made({})), 'csrf')
  assert.equal(codeOf(await made({ 'x-sigil-csrf': 'x'.repeat(csrf.length) })), 'csrf')
  assert.equal(codeOf(await made({ 'x-sigil-csrf': csrf, origin: `http://127.0.0.1:${port}` })), 'cross_origin')
  assert.equal(codeOf(await made({ 'x-sigil-csrf': csrf, 'sec-fetch-site': 'same-site' })), 'cross_origin')
  for (const host of [`127.0.0.1:${port}`, `localhost:${port}`]) {
    assert.equal((await raw('GET', '/api/v1/status', { cookie, host })).status, 401, host)
    assert.equal((await made({ host, origin: `http://${host}`, 'x-sigil-csrf': csrf })).status, 401, host)
  }
  assert.equal((await raw('GET', '/api/v1/status', { cookie, host: 'evil.example' })).status, 421)
  assert.equal((await raw('GET', '/api/v1/status', { cookie: `${cookie}; ${cookie.replace(/=.*/, '=other')}` })).status, 401)
  assert.equal((await raw('GET', '/api/v1/status', { cookie })).status, 200)
  assert.equal(server.runs('count'), before)
  assert.ok((await made({ 'x-sigil-csrf': csrf })).status < 300)
  await until('the call has run', () => server.runs('count') === before + 1)
  // What only the socket may.
  for (const [method, path, body] of [['POST', '/api/v1/tokens', '{}'], ['POST', '/api/v1/ui/codes', '{}'], ['POST', '/api/v1/leave', '{}'], ['POST', '/api/v1/invites', '{"tier":"owner"}'], ['GET', '/api/v1/backup']]) {
    const refused = await raw(method, path, { cookie, origin, 'x-sigil-csrf': csrf }, body)
    assert.equal(refused.status, 403, path)
  }
})

test('a session that is ended ends its events within a second', async () => {
  const { code } = await ui()
  const answer = await signIn(code)
  const cookie = answer.headers['set-cookie'][0].split(';')[0]
  const { csrf } = JSON.parse(answer.text)
  const ended = new Promise((over) => {
    const request = httpRequest({ host: '127.0.0.1', port, path: '/api/v1/events', headers: { host: `${hostname}:${port}`, cookie } }, (response) => {
      response.resume()
      response.on('end', over)
      raw('DELETE', '/api/v1/session', { cookie, origin, 'x-sigil-csrf': csrf })
    })
    request.end()
  })
  const began = Date.now()
  await ended
  assert.ok(Date.now() - began < 1_000)
  assert.equal((await raw('GET', '/api/v1/status', { cookie })).status, 401)
})

test('pages of others get nothing: neither an answer, nor a call, nor the cookie, nor a frame', async () => {
  const other = await listener()
  try {
    const { page, context } = await signedIn()
    const before = server.runs('count')
    const cookies = await context.cookies()
    assert.deepEqual(cookies.map((cookie) => cookie.domain), [hostname])
    const foreign = await context.newPage()
    await foreign.goto(`http://127.0.0.1:${other.port}/`)
    const tried = await foreign.evaluate(async ([url, origin]) => {
      const said = {}
      const attempt = async (name, init) => {
        try {
          said[name] = (await fetch(url, { credentials: 'include', ...init })).type
        } catch {
          said[name] = 'refused'
        }
      }
      await attempt('read', {})
      await attempt('write', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"node":"server","tool":"count"}' })
      await attempt('blind', { method: 'POST', mode: 'no-cors', headers: { 'content-type': 'text/plain' }, body: '{"node":"server","tool":"count"}' })
      const frame = document.createElement('iframe')
      frame.src = origin
      document.body.append(frame)
      await new Promise((wake) => setTimeout(wake, 500))
      try {
        said.frame = frame.contentDocument === null ? 'hidden' : 'readable'
      } catch {
        said.frame = 'hidden'
      }
      return said
    }, [`${origin}/api/v1/calls`, `${origin}/`])
    assert.equal(tried.read, 'refused')
    assert.equal(tried.write, 'refused')
    assert.notEqual(foreign.frames().length > 1 && (await foreign.frames()[1].title().catch(() => '')), 'sigil')
    assert.equal(server.runs('count'), before)
    assert.ok(other.seen.every(({ headers }) => !headers.cookie && !(headers.referer ?? '').includes(hostname)))
    assert.equal(await page.title().then((title) => title.includes('laptop')), true)
    watched.wrongs = watched.wrongs.filter((wrong) => !wrong.includes(`127.0.0.1:${other.port}`) && !/CORS policy|frame-ancestors|Framing/.test(wrong))
    await context.close()
  } finally {
    other.close()
  }
})

test('signing in: by the address, which keeps no code; by typing; under 127.0.0.1 with why not', async () => {
  me = await signedIn()
  assert.match(me.page.url(), /#\/home$/)
  assert.equal(await me.page.evaluate(() => performance.getEntriesByType('navigation').length), 1)
  const other = await watched.context()
  const page = await other.newPage()
  await page.goto(address)
  await page.getByLabel('or type the code').fill('AAAAA-AAAAA')
  await page.getByRole('button', { name: 'Open' }).click()
  await page.getByText('This is not a code of this device').waitFor()
  const { code } = await ui()
  await page.getByLabel('or type the code').fill(code)
  await page.keyboard.press('Enter')
  await page.waitForSelector('h1:has-text("Home")')
  await other.close()
  const plain = new Watched(browser, `http://127.0.0.1:${port}`)
  const bare = await plain.context()
  const shown = await bare.newPage()
  await shown.goto(`http://127.0.0.1:${port}/`)
  await shown.getByText('so nobody signs in here').waitFor()
  assert.equal(await shown.locator('input').count(), 0)
  assert.ok(!(await shown.content()).includes(hostname))
  await bare.close()
})

test('home and devices: who is here, who leads, and a filter that stays', async () => {
  await go('#/home')
  for (const name of ['laptop', 'server', 'tablet']) await me.page.getByRole('link', { name, exact: true }).waitFor()
  await shown('3 devices here')
  await go('#/devices')
  await me.page.getByLabel('Filter').fill('-is:this tool:photo')
  await me.page.getByRole('link', { name: 'server', exact: true }).waitFor()
  assert.equal(await me.page.getByRole('link', { name: 'laptop', exact: true }).count(), 0)
  assert.match(me.page.url(), /q=/)
  await tablet.down()
  await me.page.locator('[role=row]', { hasText: 'tablet' }).getByText('Away').waitFor({ timeout: 15_000 })
  assert.equal(await me.page.getByLabel('Filter').inputValue(), '-is:this tool:photo')
  await tablet.up()
  await me.page.locator('[role=row]', { hasText: 'tablet' }).getByText('Here').waitFor({ timeout: 15_000 })
})

test('a tool with a form: what is filled in is what it gets', async () => {
  await go('#/run/server/forms.all')
  await me.page.getByLabel('title').fill('garden')
  await me.page.getByRole('button', { name: 'Run' }).click()
  await shown('Still needed: lens')
  assert.equal(server.runs('forms.all'), 0)
  await me.page.getByLabel('back', { exact: true }).check()
  await me.page.getByLabel('quality').fill('55')
  await me.page.getByLabel('size').selectOption({ label: 'm' })
  await me.page.getByRole('button', { name: 'Add: tags' }).click()
  await me.page.getByRole('group', { name: 'tags' }).getByRole('textbox').fill('green')
  await me.page.getByRole('group', { name: 'area' }).getByRole('button', { name: 'Add' }).first().click()
  await me.page.getByRole('spinbutton', { name: 'x' }).first().fill('3')
  await me.page.keyboard.press('Control+Enter')
  await shown('server ran it once and said so.')
  assert.equal(server.runs('forms.all'), 1)
  const [last] = (await laptop.cli('calls', '--limit', '1')).items
  const told = await laptop.cli('calls', last.id)
  const given = typeof told.output === 'string' ? JSON.parse(told.output) : told.output
  const text = given ?? JSON.parse(told.parts?.[0] ? (await raw('GET', told.parts[0].url, {})).text : '{}')
  assert.deepEqual(text, { title: 'garden', lens: 'back', quality: 55, flash: false, size: 'm', tags: ['green'], area: { x: 3 } })
  await go('#/run/server/forms.root')
  await me.page.getByRole('combobox', { name: 'Kind' }).selectOption({ label: 'By number' })
  await me.page.getByLabel('number').fill('7')
  await me.page.getByRole('button', { name: 'Run' }).click()
  await until('it has run', () => server.runs('forms.root') === 1)
})

test('a picture is seen, and saved as it is', async () => {
  await go('#/run/server/photo')
  await me.page.getByRole('button', { name: 'Run' }).click()
  await shown('1 × 1')
  const download = me.page.waitForEvent('download')
  await me.page.getByRole('link', { name: 'Save' }).first().click()
  const bytes = readFileSync(await (await download).path())
  assert.equal(bytes.subarray(1, 4).toString(), 'PNG')
})

test('what a tool says is text, whatever it says', async () => {
  await go('#/run/server/hostile')
  await me.page.getByRole('button', { name: 'Run' }).click()
  await shown('server ran it once and said so.')
  await shown('<script>document.title')
  const text = await me.page.locator('pre').first().innerText()
  assert.ok(text.includes('\\u202e') && text.includes('\\u200b') && text.includes('\\u001b'), text)
  assert.ok(!(await me.page.title()).includes('owned'))
})

test('a call that is stopped: progress, then the end, and no button that stays', async () => {
  await go('#/run/server/slow')
  await me.page.getByRole('button', { name: 'Run' }).click()
  await shown(/step [2-9] of 60/)
  await me.page.getByRole('button', { name: 'Stop' }).click()
  await shown('It was stopped while it ran', { timeout: 5_000 })
  assert.equal(await me.page.getByRole('button', { name: 'Stop' }).count(), 0)
  assert.equal(server.runs('slow'), 1)
})

test('a call that fails says what the tool said', async () => {
  await go('#/run/server/bad')
  await me.page.getByRole('button', { name: 'Run' }).click()
  await shown('the tool reported that it failed')
  await shown('the lens is dirty')
})

test('an answer that is lost, two clicks and a reload are one call', async () => {
  const before = server.runs('count')
  await go('#/run/server/count')
  let lost = 0
  await me.page.route('**/api/v1/calls', async (route) => {
    if (route.request().method() === 'POST' && lost++ === 0) {
      // Taken by the agent, and then the connection is lost.
      const cookie = (await me.context.cookies()).map((one) => `${one.name}=${one.value}`).join('; ')
      const { 'idempotency-key': key, 'x-sigil-csrf': csrf } = route.request().headers()
      const taken = await raw('POST', '/api/v1/calls', { cookie, origin, 'idempotency-key': key, 'x-sigil-csrf': csrf }, route.request().postData())
      assert.ok(taken.status < 300, taken.text)
      return route.abort('connectionreset')
    }
    return route.continue()
  })
  const send = me.page.getByRole('button', { name: 'Run' })
  await send.click()
  await me.page.getByRole('button', { name: 'Try again' }).first().waitFor()
  await send.dblclick()
  await shown('server ran it once and said so.')
  await me.page.reload()
  await shown('server ran it once and said so.')
  await me.page.unroute('**/api/v1/calls')
  assert.ok(lost >= 2)
  assert.equal(server.runs('count'), before + 1)
})

test('why a call waits, and that it is stopped before it starts', async () => {
  const before = tablet.runs('count')
  await tablet.down()
  await go('#/run/tablet/count')
  await shown('tablet is away')
  await me.page.getByLabel('Wait for the device').selectOption('3600')
  await me.page.getByRole('button', { name: 'Run' }).click()
  await shown('Waiting for tablet')
  await me.page.getByRole('link', { name: 'The whole story' }).click()
  await shown('if it has not started by then, it does not run')
  await shown('Step by step')
  await me.page.getByRole('button', { name: 'Stop' }).click()
  await shown('it did not run')
  await tablet.up()
  await go('#/calls?state=cancelled')
  await me.page.getByRole('link', { name: /count on tablet/ }).waitFor()
  assert.equal(tablet.runs('count'), before)
})

test('a device that knocks is compared and let in; another is turned away', async () => {
  await go('#/home')
  guest.cli('join', '--address', laptop.address, '--yes', laptop.status.check.words.join('-')).catch(() => {})
  await shown('guest wants to join')
  await shown(guest.status.check.words.join(' '))
  await me.page.getByRole('button', { name: 'Let in…' }).click()
  const dialog = me.page.getByRole('dialog')
  assert.equal(await dialog.getByRole('button', { name: 'Let it in' }).isDisabled(), true)
  assert.deepEqual((await findings(me.page)), [])
  await me.page.keyboard.press('Escape')
  assert.equal(await me.page.getByRole('dialog').count(), 0)
  await me.page.getByRole('button', { name: 'Turn away…' }).click()
  await dialog.getByRole('button', { name: 'Turn it away' }).click()
  await me.page.getByText('guest wants to join').first().waitFor({ state: 'detached' })
  await guest.cli('join', '--address', laptop.address, '--yes', laptop.status.check.words.join('-')).catch(() => {})
  await shown('guest wants to join')
  await me.page.getByRole('button', { name: 'Let in…' }).click()
  await dialog.getByRole('checkbox').check()
  await dialog.getByRole('button', { name: 'Let it in' }).click()
  await me.page.getByText('guest wants to join').first().waitFor({ state: 'detached' })
  const node = await until('the guest belongs', async () => (await laptop.cli('nodes')).items.find((one) => one.node_id === 'guest' && one.tier === 'shared'))
  assert.equal(node.tier, 'shared')
})

test('the agent stops and comes back: said, and right again by itself', async () => {
  await go('#/devices')
  await me.page.getByLabel('Filter').fill('is:here')
  await laptop.down()
  await shown('does not answer. Start it')
  await laptop.up()
  await me.page.getByText('does not answer. Start it').waitFor({ state: 'detached', timeout: 20_000 })
  await me.page.locator('[role=row]', { hasText: 'server' }).getByText('Here').waitFor({ timeout: 20_000 })
  assert.equal(await me.page.getByLabel('Filter').inputValue(), 'is:here')
})

test('tabs share one stream, and another takes it over', async () => {
  const context = await watched.context({ storageState: await me.context.storageState() })
  let streams = 0
  context.on('request', (request) => (streams += request.url().endsWith('/api/v1/events') ? 1 : 0))
  const pages = []
  for (let i = 0; i < 4; i++) {
    const page = await context.newPage()
    await page.goto(`${address}#/devices`)
    await page.getByRole('link', { name: 'server', exact: true }).waitFor()
    pages.push(page)
  }
  assert.equal(streams, 1)
  const state = (page, word) => page.locator('[role=row]', { hasText: 'tablet' }).getByText(word).waitFor({ timeout: 10_000 })
  await tablet.down()
  for (const page of pages) await state(page, 'Away')
  await pages[0].close()
  await until('another leads', () => streams === 2, 5_000)
  await tablet.up()
  for (const page of pages.slice(1)) await state(page, 'Here')
  assert.equal(streams, 2)
  await context.close()
})

test('keys: to the content, to a page, to its filter, out of a dialog', async () => {
  await go('#/home')
  await me.page.locator('body').press('g')
  await me.page.locator('body').press('d')
  await me.page.waitForSelector('h1:has-text("Devices")')
  assert.equal(await me.page.evaluate(() => document.activeElement?.tagName), 'H1')
  await me.page.keyboard.press('/')
  assert.equal(await me.page.evaluate(() => document.activeElement?.id), 'devices-filter')
  await me.page.locator('h1').focus()
  await me.page.keyboard.press('?')
  await me.page.getByRole('dialog').waitFor()
  await me.page.keyboard.press('Escape')
  assert.equal(await me.page.getByRole('dialog').count(), 0)
})

test('every screen: nothing for axe to say, nothing wider than the window, in both sizes, themes and languages', async () => {
  const [done] = (await laptop.cli('calls', '--limit', '1')).items
  const routes = ['#/home', '#/devices', '#/devices/server', '#/devices/laptop?tab=links', '#/devices/server?tab=about', '#/run', '#/run/server', '#/run/server/forms.all', '#/run/server/forms.root', '#/calls', '#/calls?view=lanes&span=7d', '#/calls/' + done.id, '#/approvals', '#/people', '#/people?tab=spaces', '#/people?tab=table&by=device', '#/people?tab=why&who=person:owner&node=server&tool=count', '#/memory', '#/memory?tab=facts', '#/memory?tab=summaries', '#/memory?tab=state', '#/memory?q=key', '#/welcome', '#/activity', '#/activity?tab=logs', '#/doctor', '#/settings', '#/more', '#/nowhere']
  const storageState = await me.context.storageState()
  // What finds nothing has to be able to.
  await me.page.evaluate(() => document.body.append(Object.assign(document.createElement('img'), { id: 'nameless' })))
  assert.notDeepEqual(await findings(me.page), [])
  await me.page.evaluate(() => document.getElementById('nameless').remove())
  for (const [width, colorScheme, locale] of [[390, 'light', 'en-GB'], [1280, 'dark', 'de-DE'], [320, 'dark', 'de-DE']]) {
    const context = await watched.context({ viewport: { width, height: 844 }, colorScheme, locale, storageState })
    const page = await context.newPage()
    for (const route of routes) {
      await page.goto(address + route)
      await page.locator('main h1').first().waitFor()
      await page.waitForFunction(() => !document.querySelector('[aria-busy=true]'))
      assert.equal(await overflow(page), 0, `${route} at ${width}`)
      if (width !== 320) assert.deepEqual(await findings(page), [], `${route} at ${width}, ${colorScheme}`)
      assert.ok(!/\b(undefined|NaN|\[object)\b/.test(await page.locator('body').innerText()), route)
    }
    await context.close()
  }
})

const shared = {
  laptop,
  server,
  raw,
  fleet,
  browser,
  watched,
  address,
  go,
  shown,
  get page() {
    return me.page
  },
  get context() {
    return me.context
  },
  /** Signs in anew, in the same browser: for some minutes rights can be edited. */
  async fresh() {
    const again = await me.context.newPage()
    await again.goto((await ui()).url)
    await again.waitForSelector('h1:has-text("Home")')
    await again.close()
    await me.page.reload()
  },
}
add(test, shared)
addLook(test, shared)
addEndings(test, shared)

test('a call that asks: the exact call, a yes that runs it, a no that does not', async () => {
  await laptop.cli('person', 'add', 'mia', '--name', 'Mia', '--device', 'guest')
  await laptop.cli('workspace', 'add', 'family', '--node', 'laptop', '--members', 'allow')
  await laptop.cli('workspace', 'member', 'family', 'mia')
  await laptop.cli('rule', 'ask', 'family/careful', '--who', 'mia', '--tool', 'count', '--wait', '10m')
  await until('the guest knows', async () => (await guest.told('policy', 'explain', 'me', 'laptop', 'count')).verdict === 'ask')
  await go('#/home')
  const asked = (lens) => guest.told('call', 'laptop', 'count', '--no-wait', '--ttl', '10m', '--arg', `lens=${lens}`)
  const before = laptop.runs('count')
  await asked('front')
  await shown('mia wants to use count on laptop')
  await shown('"lens": "front"')
  assert.equal(laptop.runs('count'), before)
  assert.deepEqual(await findings(me.page), [])
  await me.page.getByRole('button', { name: 'Once' }).click()
  await until('it has run', () => laptop.runs('count') === before + 1)
  await me.page.getByText('mia wants to use').first().waitFor({ state: 'detached' })
  const { id } = await asked('back')
  await me.page.getByRole('link', { name: 'Approvals' }).click()
  await shown('"lens": "back"')
  await me.page.getByRole('button', { name: 'No', exact: true }).click()
  await shown('Nothing waits for a yes.')
  await until('it is denied', async () => (await guest.told('calls', id)).state === 'denied')
  assert.equal(laptop.runs('count'), before + 1)
})

test('settings: sessions are listed and ended, and the page says when its own is', async () => {
  const other = await signedIn()
  await go('#/settings')
  await me.page.reload()
  await shown('Browsers that are signed in')
  await other.page.goto(`${address}#/settings`)
  await other.page.getByRole('button', { name: 'End all other sessions' }).click()
  await shown('You are signed out here', { timeout: 20_000 })
  const again = await me.context.newPage()
  await again.goto((await ui()).url)
  await again.waitForSelector('h1:has-text("Home")')
  await again.close()
  await me.page.getByText('You are signed out here').waitFor({ state: 'detached', timeout: 10_000 })
  await me.context.close()
  me = other
})

test('who signs in anew goes on in every tab: the next click there counts, once; a dialog that was open shows nothing meanwhile', async () => {
  const before = server.runs('count')
  await go('#/run/server/count')
  await me.page.getByRole('button', { name: 'Run' }).waitFor()
  const again = await me.context.newPage()
  await again.goto((await ui()).url)
  await again.waitForSelector('h1:has-text("Home")')
  await me.page.getByRole('button', { name: 'Run' }).click()
  await shown('server ran it once and said so.')
  assert.equal(server.runs('count'), before + 1)
  await go('#/home')
  await me.page.locator('body').press('n')
  await me.page.getByRole('dialog').getByLabel('Name of the new device').fill('attic')
  const cookie = (await me.context.cookies()).map((one) => `${one.name}=${one.value}`).join('; ')
  const { csrf } = JSON.parse((await raw('GET', '/api/v1/session', { cookie })).text)
  assert.equal((await raw('DELETE', '/api/v1/session', { cookie, origin, 'x-sigil-csrf': csrf })).status, 204)
  await shown('You are signed out here', { timeout: 20_000 })
  await me.page.getByRole('dialog').waitFor({ state: 'detached' })
  // The page below is not inert: its button works.
  await me.page.getByRole('button', { name: 'Copy: sigil ui' }).click()
  await me.page.getByText('Copied', { exact: true }).waitFor()
  await again.close()
  const anew = await me.context.newPage()
  await anew.goto((await ui()).url)
  await anew.waitForSelector('h1:has-text("Home")')
  await anew.close()
  await me.page.getByText('You are signed out here').waitFor({ state: 'detached', timeout: 10_000 })
  assert.equal(await me.page.getByRole('dialog').getByLabel('Name of the new device').inputValue(), 'attic')
  await me.page.keyboard.press('Escape')
  assert.equal(await me.page.getByRole('dialog').count(), 0)
})

test('after ten wrong codes also a right one waits', async () => {
  const { code } = await ui()
  let last
  for (let i = 0; i < 12; i++) last = await signIn(`AAAAA-AAA${String.fromCharCode(65 + i)}A`)
  assert.equal(codeOf(last), 'rate_limited')
  assert.ok(Number(last.headers['retry-after']) >= 1)
  assert.equal(codeOf(await signIn(code)), 'rate_limited')
})

test('no code, and no name of the page, is in a log; and nothing was wrong on any page', async () => {
  const logs = readdirSync(join(laptop.home, 'logs')).map((file) => readFileSync(join(laptop.home, 'logs', file), 'utf8')).join('')
  assert.ok(logs.length > 0)
  for (const code of codes) assert.ok(!logs.includes(code) && !logs.includes(code.replace('-', '')), 'a code is in the log')
  assert.ok(!logs.includes(hostname), 'the name of the page is in the log')
  assert.deepEqual([...new Set(watched.wrongs)], [])
})

let failed = 0
const wanted = tests.filter(({ name }) => new RegExp(only).test(name) || name.startsWith('signing in'))
try {
  for (const { name, run } of wanted) {
    const began = Date.now()
    try {
      await run()
      console.log(`ok   ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`)
    } catch (error) {
      failed++
      console.log(`FAIL ${name}\n${error.stack}`)
      if (process.env.SIGIL_TEST_UI_SHOT && me) await me.page.screenshot({ path: process.env.SIGIL_TEST_UI_SHOT, fullPage: true }).catch(() => {})
    }
  }
} finally {
  await browser.close().catch(() => {})
  await fleet.stop()
}
console.log(`${wanted.length - failed} of ${wanted.length}, ${((Date.now() - started) / 1000).toFixed(0)} s`)
process.exit(failed ? 1 : 0)
