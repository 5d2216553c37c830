// How the page holds together: mirrored, magnified, in longer words; what was typed across a new version; what was put off; lanes; a rule
// that is tried before it is saved.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { clipped, findings, overflow } from './browser.mjs'
import { until } from './fleet.mjs'

const SOURCE = join(import.meta.dirname, '../../ui/src')
/** Left and right are for those who read from left to right alone: what is said is start and end. */
const PHYSICAL = /(^|[\s;{])(((margin|padding|border|inset)-(left|right)|left|right)\s*:|(text-align|float|clear)\s*:\s*(left|right)|(margin|padding|inset)\s*:\s*\S+ (?<end>\S+) \S+ (?!\k<end>[;\s])\S+\s*;)/

const styles = () =>
  readdirSync(SOURCE, { recursive: true }).filter((name) => /\.(svelte|css)$/.test(name)).map((name) => {
    const text = readFileSync(join(SOURCE, name), 'utf8')
    return [name, name.endsWith('.css') ? text : (/<style>([\s\S]*)<\/style>/.exec(text)?.[1] ?? '')]
  })

/** What is changed of the page as it stands, one after the other. */
const WAYS = {
  mirrored: () => (document.documentElement.dir = 'rtl'),
  magnified: () => {
    document.documentElement.dir = 'ltr'
    document.documentElement.style.fontSize = '200%'
  },
  longer: () => {
    document.documentElement.style.fontSize = ''
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (walk.nextNode()) {
      const node = walk.currentNode
      // What people and devices are called is as long as it is.
      if (node.data.trim().length > 2 && !node.parentElement.closest('code, pre, .mono, script, .name, svg')) node.data += ` ${node.data.trim().slice(0, Math.ceil(node.data.trim().length * 0.4))}`
    }
  },
}

export function add(test, at) {
  const { laptop, server } = at
  const dialog = () => at.page.getByRole('dialog')

  test('no style says left or right', () => {
    for (const wrong of ['a { margin-left: 1px; }', 'a {\n  right: 0;\n}', 'a { text-align: left; }', 'a { float:right }', 'a { padding: 0 1px 0 2px; }']) assert.match(wrong, PHYSICAL)
    for (const right of ['a { margin-inline-start: 1px; }', 'a { text-align: end }', 'a { padding: 0 1px 2px 1px; }', 'a { inset: auto 0 0 0; }', 'a { border-radius: 1px; }']) assert.doesNotMatch(right, PHYSICAL)
    const all = styles()
    assert.ok(all.filter(([, text]) => text).length > 30)
    assert.deepEqual(all.filter(([, text]) => PHYSICAL.test(text)).map(([name, text]) => `${name}: ${PHYSICAL.exec(text)[0].trim()}`), [])
  })

  test('no word of the API lacks a text in any language', () => {
    const said = (name) => new Set([...readFileSync(join(SOURCE, 'i18n', `${name}.ts`), 'utf8').matchAll(/^  '([\w.]+)': '(?:[^'\\]|\\.)+',$/gm)].map(([, key]) => key))
    const rust = (file, type) => {
      const [, body] = new RegExp(`impl ${type} \\{[^]*?fn as_str[^]*?match self \\{([^]*?)\\n        \\}`).exec(readFileSync(join(SOURCE, '../../src', file), 'utf8'))
      return [...body.matchAll(/=> "(\w+)"/g)].map(([, word]) => word)
    }
    const { components } = JSON.parse(readFileSync(join(SOURCE, '../../docs/openapi.json'), 'utf8'))
    const of = (schema, member) => (member ? components.schemas[schema].properties[member] : components.schemas[schema]).enum
    const words = {
      'what.': ['call', ...rust('mesh/core/src/audit_record.rs', 'Happened')],
      'layer.': rust('mesh/core/src/policy/decision.rs', 'Layer'),
      'problem.': of('Problem', 'code'),
      'verdict.': of('VerdictName'),
      'node.state.': of('NodeState'),
    }
    for (const [kind, least] of [['what.', 9], ['layer.', 9], ['problem.', 60]]) assert.ok(words[kind].length >= least, kind)
    for (const language of ['en', 'de']) {
      const known = said(language)
      const missing = Object.entries(words).flatMap(([kind, all]) => all.map((word) => kind + word).filter((key) => !known.has(key)))
      assert.deepEqual(missing, [], language)
    }
  })

  test('mirrored, magnified to 200 % and in longer words: nothing is cut, nothing wider than the window', async () => {
    const [done] = (await laptop.cli('calls', '--limit', '1')).items
    const routes = ['#/home', '#/devices', '#/devices/server', '#/devices/laptop?tab=links', '#/run', '#/run/server/forms.all', '#/calls?view=lanes&span=24h', `#/calls/${done.id}`, '#/approvals', '#/people', '#/people?tab=spaces', '#/people?tab=table&by=device', '#/memory', '#/welcome', '#/activity', '#/activity?tab=logs', '#/doctor', '#/settings', '#/more']
    const storageState = await at.context.storageState()
    for (const width of [390, 1280]) {
      const context = await at.watched.context({ viewport: { width, height: 844 }, storageState })
      const page = await context.newPage()
      await page.goto(at.address)
      // What finds nothing has to be able to.
      await page.locator('main h1').first().waitFor()
      await page.evaluate(() => {
        const box = Object.assign(document.createElement('div'), { id: 'cut', textContent: 'a text that is longer than its box' })
        Object.assign(box.style, { width: '40px', overflow: 'hidden', whiteSpace: 'nowrap' })
        document.body.append(box)
      })
      assert.equal((await clipped(page)).length, 1)
      for (const route of width === 390 ? routes : routes.slice(0, 3)) {
        await page.goto('about:blank')
        await page.goto(at.address + route)
        await page.locator('main h1').first().waitFor()
        await page.waitForFunction(() => !document.querySelector('[aria-busy=true]'))
        for (const [name, way] of Object.entries(WAYS)) {
          await page.evaluate(way)
          assert.equal(await overflow(page), 0, `${route}, ${name}, at ${width}`)
          assert.deepEqual(await clipped(page), [], `${route}, ${name}, at ${width}`)
          if (name !== 'mirrored' || width < 720) continue
          const rail = await page.locator('nav.rail').boundingBox()
          assert.ok(rail.x > width / 2, `${route}: the navigation is on the right`)
        }
      }
      await context.close()
    }
    // A window of 1280 that is magnified twice.
    const context = await at.watched.context({ viewport: { width: 640, height: 450 }, deviceScaleFactor: 2, storageState })
    const page = await context.newPage()
    for (const route of routes.filter((_, i) => i % 2 === 0)) {
      await page.goto(at.address + route)
      await page.locator('main h1').first().waitFor()
      await page.waitForFunction(() => !document.querySelector('[aria-busy=true]'))
      assert.equal(await overflow(page), 0, `${route} at 200 %`)
      assert.deepEqual(await clipped(page), [], `${route} at 200 %`)
    }
    await context.close()
  })

  test('a newer page is said, and what was typed for a tool is there after the reload', async () => {
    await at.go('#/run/server/forms.all')
    await at.page.getByLabel('title').fill('typed before')
    const { headers, text } = await at.raw('GET', '/')
    delete headers['content-length']
    await at.page.route(at.address, (route) => route.fulfill({ headers, body: text.replace(/(\/assets\/)[\w.-]+\.js/, '$1another.js') }))
    assert.equal(await at.page.getByText('A newer version of this page').count(), 0)
    await laptop.down()
    await at.shown('does not answer. Start it')
    await laptop.up()
    await at.shown('A newer version of this page', { timeout: 20_000 })
    assert.equal(await at.page.getByLabel('title').inputValue(), 'typed before')
    await at.page.unroute(at.address)
    await at.page.getByRole('button', { name: 'Reload' }).click()
    await until('it is there again', async () => (await at.page.getByLabel('title').inputValue().catch(() => '')) === 'typed before')
    assert.equal(await at.page.getByText('A newer version of this page').count(), 0)
  })

  test('a finding is put off until it changes, and no longer', async () => {
    const file = join(laptop.home, 'sigil.toml')
    const settings = readFileSync(file, 'utf8')
    // Settings that nobody knows, of which the agent warns.
    const wrong = async (...names) => {
      writeFileSync(file, settings + names.map((name) => `[${name}]\n`).join(''))
      await until('the agent says so', async () => {
        const found = (await laptop.told('doctor')).checks.filter((check) => check.id === 'settings' && check.state !== 'ok')
        return found.length === names.length && names.every((name) => found.some((check) => check.cause.includes(name)))
      })
      await at.page.reload()
    }
    const row = (name) => at.page.locator('main li.finding', { hasText: name })
    await at.go('#/home')
    await wrong('nonsense', 'rubbish')
    await row('rubbish').waitFor()
    await row('nonsense').getByRole('button', { name: 'Not now' }).click()
    await at.page.getByText('1 finding is put off').waitFor()
    assert.equal(await row('nonsense').isVisible(), false)
    assert.equal(await row('rubbish').isVisible(), true)
    await at.page.reload()
    await row('rubbish').waitFor()
    assert.equal(await row('nonsense').isVisible(), false)
    assert.deepEqual(await findings(at.page), [])
    // It was gone, and is back.
    await wrong('rubbish')
    await row('rubbish').waitFor()
    await wrong('nonsense', 'rubbish')
    await row('nonsense').waitFor()
    assert.equal(await row('nonsense').isVisible(), true)
    await wrong()
    assert.equal(await row('nonsense').count(), 0)
  })

  test('calls in lanes: each device its own, and the list says the same', async () => {
    await laptop.cli('call', 'server', 'count')
    await at.go('#/calls')
    await at.page.getByRole('button', { name: 'Lanes' }).click()
    assert.match(at.page.url(), /view=lanes/)
    await at.page.getByLabel('Time').selectOption('24h')
    const lane = at.page.locator('figure .lane', { hasText: 'server' })
    await lane.waitFor()
    const drawn = await at.page.locator('figure .lane a').evaluateAll((bars) => bars.map((bar) => bar.getAttribute('href')))
    const calls = (await laptop.cli('calls', '--limit', '200')).items
    assert.ok(drawn.length > 0 && drawn.every((href) => calls.some((call) => href === `#/calls/${call.id}`)))
    assert.ok((await at.page.locator('main .list a').count()) >= Math.min(50, drawn.length))
    assert.deepEqual(await findings(at.page), [])
    await at.page.getByRole('button', { name: 'Lanes' }).click()
    assert.equal(await at.page.locator('figure .lane').count(), 0)
  })

  test('calls of last week are found, however many came since', async () => {
    const context = await at.watched.context({ viewport: { width: 390, height: 844 }, storageState: await at.context.storageState() })
    const page = await context.newPage()
    await laptop.cli('call', 'server', 'count')
    // What was called just now was called last week, for this page.
    await page.clock.setFixedTime(Date.now() + 8 * 86_400_000)
    await page.goto(`${at.address}#/devices/server`)
    await page.getByRole('link', { name: 'All its calls' }).click()
    await page.locator('main .list a').first().waitFor()
    await page.getByLabel('When').selectOption('today')
    await page.getByText('No call is like that').waitFor()
    await page.getByLabel('When').selectOption('before')
    await page.getByText(/calls? of that time/).waitFor()
    const shown = await page.locator('main .list a').evaluateAll((rows) => rows.map((row) => row.getAttribute('href')))
    const calls = (await laptop.cli('calls', '--limit', '200', '--node', 'server')).items
    assert.deepEqual(shown, calls.map((call) => `#/calls/${call.id}`))
    await context.close()
  })

  test('a rule is tried on the last calls before it is saved: nothing has changed, and what was said comes true', async () => {
    const rules = async () => JSON.stringify((await laptop.cli('workspace', 'list')).items)
    await laptop.cli('person', 'add', 'tim', '--name', 'Tim')
    await laptop.cli('workspace', 'add', 'garden', '--node', 'server', '--members', 'allow')
    await laptop.cli('call', 'server', 'count')
    const before = await rules()
    await at.go('#/people?tab=spaces')
    await at.page.locator('section', { hasText: 'garden' }).getByRole('button', { name: 'Add a rule' }).last().click()
    await dialog().getByLabel('forbid; beats').check()
    await dialog().getByLabel('Which tools').fill('count')
    await dialog().getByRole('button', { name: 'What would change?' }).click()
    await dialog().getByText(/would be answered (differently|as)/).waitFor()
    assert.deepEqual(await findings(at.page), [])
    const said = await dialog().locator('.trial').innerText()
    assert.match(said, /count on server/)
    assert.match(said, /→\s*Not allowed/)
    // Another text: the answer is not about it.
    await dialog().getByLabel('Which tools').fill('photo')
    await dialog().getByText('would be answered differently').waitFor({ state: 'detached' })
    await at.page.keyboard.press('Escape')
    assert.equal(await rules(), before)
    assert.ok(server.runs('count') > 0)
    const called = async () => {
      const { state, code } = await laptop.told('call', 'server', 'count')
      return code ?? state
    }
    assert.equal(await called(), 'done')
    await laptop.cli('rule', 'deny', 'garden/none', '--tool', 'count')
    await until('the rule holds', async () => (await called()) === 'denied')
    await laptop.cli('workspace', 'remove', 'garden')
    await laptop.cli('person', 'remove', 'tim')
    await laptop.cli('policy', 'off')
  })
}
