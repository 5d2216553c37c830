// All of the page, for eyes: every screen in every state, at both sizes, in light and dark, on sheets; and what it weighs.
// node full.mjs SIGIL DIR [FILTER]. By hand: whoever changes the page looks at the sheets.

import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { brotliCompressSync, gzipSync } from 'node:zlib'
import { findings, launch, overflow, Watched } from './browser.mjs'
import { Fleet, until } from './fleet.mjs'

const [sigil, dir, only = ''] = process.argv.slice(2)
mkdirSync(dir, { recursive: true })
const wanted = new RegExp(only)
const fleet = new Fleet(sigil)
const browser = await launch()
const said = []
const wrongs = new Set()
const say = (text) => (said.push(text), console.log(text))

const CHAT = [
  ['anna', 'family', '2026-10-03T18:02:00+02:00', 'The dentist moved our appointment to Friday at 9:00.'],
  ['mia', 'family', '2026-10-03T18:05:00+02:00', 'Can I take the bus home from there?'],
  ['anna', 'family', '2026-10-03T18:06:00+02:00', 'Yes, bus 12. Please remember: always call before you leave.'],
  ['bob', 'house', '2026-11-04T08:10:00+01:00', 'The cat is called Minka. My phone number is 0171 5551234.'],
  ['anna', 'house', '2026-11-12T10:00:00+01:00', 'I moved the tools to the cellar.'],
]
const SIZES = [[390, 'light'], [1280, 'light'], [390, 'dark'], [1280, 'dark']]
const BOTH = [[390, 'light'], [1280, 'dark']]

/** Pictures of `routes` in one state, each size and theme on its own page. */
async function pictures(state, { address, storageState, routes, sizes, dist, ready = async () => {}, before = async () => {}, wait = 600, quiet = true }) {
  if (!wanted.test(state)) return
  const watched = new Watched(browser, new URL(address).origin)
  for (const [width, scheme] of sizes) {
    const context = await watched.context({ viewport: { width, height: width < 500 ? 844 : 900 }, colorScheme: scheme, storageState, hasTouch: width < 500, isMobile: width < 500, ...(dist ? { dist } : {}) })
    const page = await context.newPage()
    await ready()
    await page.goto(address)
    await before(page)
    for (const [name, hash] of Object.entries(routes)) {
      await page.goto(`${address}${hash}`)
      if (quiet) await page.waitForFunction(() => !document.querySelector('[aria-busy=true]'), null, { timeout: 8_000 }).catch(() => {})
      await page.waitForTimeout(wait)
      await page.screenshot({ path: join(dir, `${state}.${name}.${width}.${scheme}.png`), fullPage: true })
      const wide = await overflow(page)
      if (wide > 0) say(`${state} ${name} ${width}: ${wide} px too wide`)
      for (const one of await findings(page)) say(`${state} ${name} ${width} ${scheme}: ${one}`)
    }
    await context.close()
  }
  for (const wrong of watched.wrongs) wrongs.add(`${state}: ${wrong}`)
}

/** Signs in at the page of an agent. */
async function way(agent) {
  const { url, page: address } = await agent.ui()
  const context = await new Watched(browser, new URL(address).origin).context()
  const page = await context.newPage()
  await page.goto(url)
  await page.locator('main h1').first().waitFor()
  const storageState = await context.storageState()
  await context.close()
  return { address, storageState }
}

/** What the built page weighs, and how soon it is seen: medians of 7, plain and on a slow phone. */
async function budgets(address, storageState) {
  const files = readdirSync(join(import.meta.dirname, '../../ui/dist/assets')).map((name) => join('assets', name))
  const sizes = ['index.html', 'sw.js', ...files].map((name) => {
    const path = join(import.meta.dirname, '../../ui/dist', name)
    const bytes = readFileSync(path)
    return { name, raw: bytes.length, br: brotliCompressSync(bytes).length, gz: gzipSync(bytes, { level: 9 }).length }
  })
  const sum = (of, list) => list.reduce((all, one) => all + one[of], 0)
  const first = sizes.filter(({ name }) => /index\.html|assets\/(page|style)-/.test(name))
  for (const { name, raw, gz } of sizes) say(`${name}: ${(raw / 1000).toFixed(1)} kB, ${(gz / 1000).toFixed(1)} kB as it goes out`)
  say(`first load: ${(sum('br', first) / 1000).toFixed(1)} kB by brotli (100) and ${(sum('gz', first) / 1000).toFixed(1)} kB as it goes out, all: ${(sum('br', sizes) / 1000).toFixed(1)} kB (350), in the program ${(sum('raw', sizes) / 1000).toFixed(0)} kB (600)`)
  for (const slow of [false, true]) {
    const runs = []
    for (let i = 0; i < 7; i++) {
      const context = await new Watched(browser, new URL(address).origin).context({ viewport: { width: 390, height: 844 }, storageState, serviceWorkers: 'block' })
      const page = await context.newPage()
      if (slow) {
        const cdp = await context.newCDPSession(page)
        await cdp.send('Emulation.setCPUThrottlingRate', { rate: 4 })
        await cdp.send('Network.enable')
        await cdp.send('Network.emulateNetworkConditions', { offline: false, latency: 150, downloadThroughput: 200_000, uploadThroughput: 93_750 })
      }
      await page.addInitScript(() => {
        window.seen = { lcp: 0, cls: 0, tbt: 0 }
        new PerformanceObserver((list) => list.getEntries().forEach((entry) => (window.seen.tbt += Math.max(0, entry.duration - 50)))).observe({ type: 'longtask', buffered: true })
        new PerformanceObserver((list) => list.getEntries().forEach((entry) => (window.seen.lcp = entry.startTime))).observe({ type: 'largest-contentful-paint', buffered: true })
        new PerformanceObserver((list) => list.getEntries().forEach((entry) => (window.seen.cls += entry.value))).observe({ type: 'layout-shift', buffered: true })
      })
      await page.goto(address)
      await page.locator('main h1').first().waitFor()
      await page.waitForTimeout(slow ? 1_500 : 500)
      runs.push(await page.evaluate(() => ({ fcp: performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0, ...window.seen })))
      await context.close()
    }
    const median = (of) => runs.map((run) => run[of]).sort((a, b) => a - b)[3]
    say(`${slow ? 'processor 4 times slower, slow 4G' : 'plain'}: first seen after ${median('fcp').toFixed(0)} ms, largest after ${median('lcp').toFixed(0)} ms, shifts ${median('cls').toFixed(3)}, blocked ${median('tbt').toFixed(0)} ms`)
  }
}

/** What the page does with 150 devices and 2,000 calls: how soon it can be used, how soon a letter in the filter has been heard, and how much
 *  memory that takes. The calls are real; so many devices are the answer of one route, multiplied, for nobody has them. */
async function many(agent, { address, storageState }) {
  const context = await new Watched(browser, new URL(address).origin).context({ storageState, viewport: { width: 390, height: 844 }, serviceWorkers: 'block' })
  const page = await context.newPage()
  const { items } = await agent.cli('nodes')
  await page.route(/\/api\/v1\/nodes(\?.*)?$/, async (route) => {
    const more = Array.from({ length: 150 - items.length }, (_, i) => {
      const one = items[i % items.length]
      return { ...one, self: false, gateway: false, node_id: `${one.node_id}-${i}`, peer_id: `${one.peer_id}${i}`, state: i % 3 ? 'online' : 'offline' }
    })
    return route.fulfill({ json: { items: [...items, ...more], next_cursor: null } })
  })
  await page.goto(address)
  await page.locator('main h1').first().waitFor()
  // Asked by the page itself, sixteen at a time, until there are so many that are over.
  const began = Date.now()
  const made = await page.evaluate(async () => {
    const { csrf } = await (await fetch('/api/v1/session')).json()
    let left = 2_000
    let made = 0
    const one = async () => {
      while (left-- > 0) {
        const answer = await fetch('/api/v1/calls', { method: 'POST', headers: { 'content-type': 'application/json', 'x-sigil-csrf': csrf, prefer: 'wait=20' }, body: JSON.stringify({ node: 'laptop', tool: 'device.info' }) })
        if (answer.ok) made++
        else if (answer.status === 429) (left++, await new Promise((wake) => setTimeout(wake, 500)))
        await answer.arrayBuffer()
      }
    }
    await Promise.all(Array.from({ length: 16 }, one))
    return made
  })
  say(`many: ${made} calls in ${((Date.now() - began) / 1000).toFixed(0)} s`)
  const cdp = await context.newCDPSession(page)
  await cdp.send('Performance.enable', { timeDomain: 'threadTicks' })
  const heap = async () => {
    await cdp.send('HeapProfiler.collectGarbage')
    return (await cdp.send('Performance.getMetrics')).metrics.find(({ name }) => name === 'JSHeapUsedSize').value / 1e6
  }
  const median = (list) => list.sort((a, b) => a - b)[list.length >> 1]
  for (const [hash, ready] of [['#/devices', '[role=row] a'], ['#/calls', 'main .list a'], ['#/home', '.tile']]) {
    const times = []
    for (let i = 0; i < 5; i++) {
      await page.goto('about:blank')
      const from = Date.now()
      await page.goto(address + hash)
      await page.locator(ready).first().waitFor()
      times.push(Date.now() - from)
    }
    say(`many: ${hash} can be used after ${median(times)} ms from nothing (1,000), heap ${(await heap()).toFixed(1)} MB (100)`)
  }
  await page.goto(`${address}#/devices`)
  await page.locator('[role=row] a').first().waitFor()
  // Time of the page's own thread, so that what else the machine does is not in it.
  const spent = async () => (await cdp.send('Performance.getMetrics')).metrics.find(({ name }) => name === 'TaskDuration').value * 1_000
  const heard = []
  for (const text of ['s', 'se', 'ser', 'serv', 'serve', 'server', 'server-1', 'server-', 'is:away', 'is:here', '-is:here', 'tool:photo', '', 'tablet', 't', '', 'laptop-9', 'zzz', '', 'a']) {
    const before = await spent()
    await page.evaluate(async (text) => {
      const field = document.querySelector('#devices-filter')
      field.value = text
      field.dispatchEvent(new Event('input', { bubbles: true }))
      await new Promise((wake) => requestAnimationFrame(() => setTimeout(wake, 0)))
    }, text)
    heard.push((await spent()) - before)
  }
  heard.sort((a, b) => a - b)
  say(`many: a letter in the filter of 150 devices takes ${heard[10].toFixed(0)} ms, 95 % within ${heard[18].toFixed(0)} ms (100)`)
  await page.goto(`${address}#/calls?when=week`)
  await page.getByText(/calls? of that time/).waitFor({ timeout: 120_000 })
  say(`many: all ${await page.locator('main .list a').count()} calls of a week in one list: heap ${(await heap()).toFixed(1)} MB (100)`)
  await page.goto(`${address}#/home`)
  await page.locator('.tile').first().waitFor()
  const before = await heap()
  const events = await page.evaluate(async () => {
    const { csrf } = await (await fetch('/api/v1/session')).json()
    const until = Date.now() + 30_000
    let made = 0
    while (Date.now() < until) {
      await fetch('/api/v1/calls', { method: 'POST', headers: { 'content-type': 'application/json', 'x-sigil-csrf': csrf }, body: JSON.stringify({ node: 'laptop', tool: 'device.info' }) }).then((answer) => answer.arrayBuffer())
      made++
      await new Promise((wake) => setTimeout(wake, 100))
    }
    return made
  })
  say(`many: Home for 30 s with ${events} calls, each with its events: heap ${before.toFixed(1)} MB before, ${(await heap()).toFixed(1)} after (60)`)
  for (const [name, hash] of [['devices', '#/devices'], ['home', '#/home'], ['lanes', '#/calls?view=lanes&span=15m']]) {
    await page.goto(address + hash)
    await page.waitForTimeout(1_500)
    await page.screenshot({ path: join(dir, `many.${name}.390.light.png`), fullPage: true })
    const wide = await overflow(page)
    if (wide > 0) say(`many ${name}: ${wide} px too wide`)
  }
  await context.close()
}

/** One sheet of all pictures of a state. */
async function sheet(state) {
  const names = readdirSync(dir).filter((name) => name.startsWith(`${state}.`) && name.endsWith('.png')).sort()
  if (!names.length) return
  const figure = (name) => `<figure><img src="${name}"><figcaption>${name.replace('.png', '')}</figcaption></figure>`
  const style = 'body{margin:8px;background:#888;font:12px sans-serif;columns:6;column-gap:8px}figure{margin:0 0 8px;break-inside:avoid}img{width:100%;max-height:600px;object-fit:cover;object-position:top;display:block}'
  writeFileSync(join(dir, `${state}.html`), `<!doctype html><meta charset="utf-8"><title>${state}</title><style>${style}</style>${names.map(figure).join('')}`)
  const page = await browser.newPage({ viewport: { width: 1900, height: 1000 } })
  await page.goto(`file://${join(dir, `${state}.html`)}`)
  await page.screenshot({ path: join(dir, `sheet-${state}.png`), fullPage: true })
  await page.close()
}

/** The picture of the README: the page of a computer, and beside it that of a phone. */
async function readme() {
  const page = await browser.newPage({ viewport: { width: 1180, height: 600 } })
  const style = 'body{margin:0;background:#d7d7ce;display:flex;gap:20px;padding:20px}img{border-radius:10px;height:560px;object-fit:cover;object-position:top left}.wide{width:860px}.phone{width:260px}'
  writeFileSync(join(dir, 'readme.html'), `<!doctype html><style>${style}</style><img class="wide" src="there.home.1280.light.png"><img class="phone" src="there.call-waiting.390.dark.png">`)
  await page.goto(`file://${join(dir, 'readme.html')}`)
  await page.screenshot({ path: join(dir, 'readme.png') })
  say(`readme.png: ${(statSync(join(dir, 'readme.png')).size / 1000).toFixed(0)} kB (200)`)
  await page.close()
}

try {
  const alone = await fleet.start('alone')
  const laptop = await fleet.start('laptop')
  const server = await fleet.join(laptop, 'server')
  const tablet = await fleet.join(laptop, 'tablet')
  const guest = await fleet.start('phone')
  const mia = await fleet.start('mia-laptop')
  for (const [who, talk, at, text] of CHAT) await laptop.cli('memory', 'add', '--speaker', who, '--conversation', talk, '--at', at, text)
  await laptop.cli('memory', 'compact')
  const { code } = await laptop.cli('invite', '--tier', 'shared', '--name', 'mia-laptop')
  await mia.cli('join', code)
  const call = (...args) => laptop.told('call', '--wait', '5s', ...args)
  await call('server', 'photo')
  await call('server', 'count', '--arg', 'a=1')
  await call('server', 'bad')
  await call('server', 'hostile')
  await tablet.down()
  const waiting = await laptop.told('call', 'tablet', 'count', '--ttl', '2h', '--no-wait')
  const first = await way(alone)
  await pictures('empty', { ...first, sizes: BOTH, routes: { welcome: '#/welcome', 'welcome-mesh': '#/welcome?step=mesh', 'welcome-join': '#/welcome?step=mesh&way=join', 'welcome-do': '#/welcome?step=do', home: '#/home', devices: '#/devices', device: '#/devices/alone?tab=links', calls: '#/calls', lanes: '#/calls?view=lanes&span=15m', approvals: '#/approvals', people: '#/people', spaces: '#/people?tab=spaces', table: '#/people?tab=table', why: '#/people?tab=why', memory: '#/memory', facts: '#/memory?tab=facts', summaries: '#/memory?tab=summaries', state: '#/memory?tab=state', found: '#/memory?q=nothing', activity: '#/activity', doctor: '#/doctor' } })
  await laptop.cli('person', 'add', 'anna', '--name', 'Anna', '--role', 'admin')
  await laptop.cli('person', 'add', 'mia', '--name', 'Mia', '--device', 'mia-laptop')
  await laptop.cli('workspace', 'add', 'family', '--title', 'Family', '--node', 'server', '--node', 'laptop', '--members', 'allow')
  await laptop.cli('workspace', 'member', 'family', 'mia')
  await laptop.cli('rule', 'ask', 'family/careful', '--who', 'mia', '--tool', 'photo', '--wait', '1h')
  await laptop.cli('rule', 'deny', 'family/no-shell', '--who', 'mia', '--tool', 'slow')
  await until('mia knows', async () => (await mia.told('policy', 'explain', 'me', 'server', 'photo')).verdict === 'ask')
  await mia.told('call', 'server', 'photo', '--no-wait', '--ttl', '1h', '--arg', 'lens=front')
  void guest.cli('join', '--address', laptop.address, '--yes', laptop.status.check.words.join('-')).catch(() => {})
  await until('the guest is seen', async () => (await laptop.cli('pending')).items?.length)
  const at = await way(laptop)
  const calls = (await laptop.cli('calls')).items
  const of = (tool) => calls.find((one) => one.tool === tool)?.id
  const routes = {
    home: '#/home', devices: '#/devices', device: '#/devices/server', 'device-about': '#/devices/server?tab=about', 'device-links': '#/devices/laptop?tab=links', 'device-waiting': '#/devices/tablet?tab=waiting',
    run: '#/run', 'run-device': '#/run/server', 'run-form': '#/run/server/forms.all', 'run-root': '#/run/server/forms.root', 'run-away': '#/run/tablet/count', calls: '#/calls',
    'call-photo': `#/calls/${of('photo')}`, 'call-count': `#/calls/${of('count')}`, 'call-bad': `#/calls/${of('bad')}`, 'call-hostile': `#/calls/${of('hostile')}`, 'call-waiting': `#/calls/${waiting.id ?? of('count')}`,
    approvals: '#/approvals', people: '#/people', spaces: '#/people?tab=spaces', table: '#/people?tab=table', why: '#/people?tab=why&who=person:mia&node=server&tool=photo', memory: '#/memory', found: '#/memory?q=when is the dentist', facts: '#/memory?tab=facts', summaries: '#/memory?tab=summaries', 'memory-state': '#/memory?tab=state',
    activity: '#/activity', logs: '#/activity?tab=logs', doctor: '#/doctor', settings: '#/settings', more: '#/more',
  }
  await pictures('there', { ...at, routes, sizes: SIZES })
  const few = Object.fromEntries(Object.entries(routes).filter(([name]) => !/run-|device-|call-(count|bad|hostile)/.test(name)))
  // Answers are held back, for as long as the page waits for them.
  const held = async (page) => page.route(/\/api\/v1\/(?!session|events)/, () => {})
  await pictures('loading', { ...at, routes: { home: '#/home', calls: '#/calls', device: '#/devices/server', memory: '#/memory', table: '#/people?tab=table' }, sizes: BOTH, before: held, quiet: false })
  await pictures('slow', { ...at, routes: { calls: '#/calls' }, sizes: BOTH, before: held, wait: 5_600, quiet: false })
  await pictures('error', { ...at, routes: { call: '#/calls/01JZZZZZZZZZZZZZZZZZZZZZZZ', device: '#/devices/none', 'run-device': '#/run/none', 'run-tool': '#/run/server/none', why: '#/people?tab=why&who=person:nobody&node=server&tool=photo', nowhere: '#/nowhere' }, sizes: BOTH })
  const dialogs = async (name, open, scale = BOTH) => {
    for (const [width, scheme] of wanted.test('dialog') ? scale : []) {
      const context = await new Watched(browser, new URL(at.address).origin).context({ viewport: { width, height: 844 }, colorScheme: scheme, storageState: at.storageState })
      const page = await context.newPage()
      await page.goto(at.address)
      await open(page)
      await page.waitForTimeout(400)
      await page.screenshot({ path: join(dir, `dialog.${name}.${width}.${scheme}.png`) })
      for (const one of await findings(page)) say(`dialog ${name} ${width}: ${one}`)
      await context.close()
    }
  }
  const press = (page, name) => page.getByRole('button', { name }).first().click()
  await dialogs('add', async (page) => (await page.goto(`${at.address}#/home`), await page.locator('body').press('n'), await page.getByLabel('Name of the new device').fill('kitchen'), await press(page, 'Make a code'), page.getByRole('img').first().waitFor()))
  await dialogs('palette', async (page) => (await page.locator('main h1').waitFor(), page.keyboard.press('Control+k')))
  await dialogs('keys', async (page) => (await page.locator('main h1').waitFor(), page.locator('body').press('?')))
  await dialogs('person', async (page) => (await page.goto(`${at.address}#/people`), press(page, 'Edit Mia')))
  await dialogs('rule', async (page) => (await page.goto(`${at.address}#/people?tab=spaces`), press(page, 'Add a rule')))
  await dialogs('space', async (page) => (await page.goto(`${at.address}#/people?tab=spaces`), press(page, 'Edit Family')))
  await dialogs('forget', async (page) => (await page.goto(`${at.address}#/memory`), press(page, 'Forget…')))
  await dialogs('correct', async (page) => (await page.goto(`${at.address}#/memory`), press(page, 'Correct…')))
  await dialogs('let-in', async (page) => press(page, 'Let in…'))
  await pictures('member', { ...(await way(mia)), routes: few, sizes: BOTH })
  if (existsSync(join(dir, 'kit'))) await pictures('kit', { ...at, routes: { kit: '#/kit' }, sizes: SIZES, dist: join(dir, 'kit'), quiet: false })
  if (wanted.test('budgets')) await budgets(at.address, at.storageState)
  if (wanted.test('many')) await many(laptop, at)
  await server.down()
  await mia.down()
  await until('nobody is in reach', async () => (await laptop.cli('status')).nodes_online === 1)
  await pictures('isolated', { ...at, routes: { home: '#/home', devices: '#/devices', run: '#/run/server/count' }, sizes: BOTH })
  await laptop.cli('ui', '--sign-out')
  await pictures('over', { ...at, routes: { 'sign-in': '#/home' }, sizes: SIZES })
  const again = await way(laptop)
  await pictures('offline', { ...again, routes: few, sizes: BOTH, ready: async () => (await laptop.down(), laptop.up()), before: async (page) => (await page.locator('main h1').first().waitFor(), await until('kept', () => page.evaluate(async () => (await caches.match('/')) !== undefined)), await laptop.down()), wait: 300, quiet: false })
  for (const state of ['there', 'empty', 'loading', 'slow', 'error', 'dialog', 'member', 'isolated', 'over', 'offline', 'kit', 'many']) await sheet(state)
  if (wanted.test('there')) await readme()
  for (const wrong of wrongs) say(wrong)
} finally {
  writeFileSync(join(dir, 'said.txt'), said.join('\n') + '\n')
  await browser.close()
  await fleet.stop()
}
