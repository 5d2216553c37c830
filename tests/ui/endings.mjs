// Stopped, reloaded and ended in every order: no button and no clock stays. And a code that a camera sees.

import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { launch, Watched } from './browser.mjs'
import { until } from './fleet.mjs'

/** Numbers that are the same in each run. */
function seeded(seed) {
  return () => ((seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0) / 2 ** 32)
}

const ROUNDS = Number(process.env.SIGIL_TEST_UI_ROUNDS ?? 12)

export function add(test, at) {
  const { laptop, server, fleet } = at

  test('stopped, reloaded and ended in any order: no button to stop remains, and each has run once', async () => {
    const random = seeded(17)
    const ways = { stop: 0, reload: 0, outside: 0, end: 0 }
    for (let round = 0; round < ROUNDS; round++) {
      const way = Object.keys(ways)[round % 4]
      const tool = way === 'end' ? 'count' : 'slow'
      const before = server.runs(tool)
      await at.go(`#/run/server/${tool}?n=${round}`)
      await at.page.getByRole('button', { name: 'Run' }).click()
      await until('it has started', () => server.runs(tool) === before + 1)
      await at.page.waitForTimeout(random() * 300)
      if (way === 'reload') await at.page.reload()
      if (way === 'outside') {
        const [{ id }] = (await laptop.cli('calls', '--limit', '1')).items
        await laptop.told('cancel', id)
      } else if (way !== 'end') await at.page.getByRole('button', { name: 'Stop' }).click()
      await at.shown(way === 'end' ? 'server ran it once and said so.' : 'It was stopped while it ran', { timeout: 10_000 })
      await at.page.getByRole('button', { name: 'Stop' }).waitFor({ state: 'detached', timeout: 3_000 })
      assert.equal(await at.page.locator('[aria-busy=true]').count(), 0)
      assert.equal(server.runs(tool), before + 1, way)
      ways[way]++
    }
    assert.ok(Object.values(ways).every((times) => times > 0))
    const open = (await laptop.cli('calls', '--state', 'open')).items
    assert.deepEqual(open.map(({ tool }) => tool), [])
  })

  test('each ending is told as it was: done, failed, stopped before and while it ran, out of time', async () => {
    await fleet.agents.find(({ name }) => name === 'tablet').down()
    const told = (...args) => laptop.told('call', ...args)
    const expected = {
      done: [await told('server', 'count'), 'ran it once and said so'],
      failed: [await told('server', 'bad'), 'the tool reported that it failed'],
      expired: [await told('tablet', 'count', '--ttl', '1s', '--wait', '5s'), 'so it did not run'],
    }
    const waits = await told('tablet', 'count', '--ttl', '10m', '--no-wait')
    await laptop.told('cancel', waits.id)
    expected.cancelled = [waits, 'it did not run']
    for (const [state, [{ id }, words]] of Object.entries(expected)) {
      const call = await until(state, async () => {
        const now = await laptop.told('calls', id)
        return now.state === state && now
      })
      await at.go(`#/calls/${id}`)
      await at.page.locator('.story').getByText(words).waitFor()
      // What the device itself has said is told from what others infer of it.
      assert.equal(await at.page.locator('.story').getByText('not confirmed').count(), call.confirmed ? 0 : 1, state)
      assert.equal(await at.page.getByRole('button', { name: 'Stop' }).count(), 0, state)
      assert.ok(!new RegExp(`^${state}$`, 'm').test(await at.page.locator('main').innerText()), `${state}: a bare word`)
    }
    await fleet.agents.find(({ name }) => name === 'tablet').up()
  })

  test('a code is read by a camera, and only filled in', async () => {
    await at.go('#/home')
    await at.page.locator('body').press('n')
    const dialog = at.page.getByRole('dialog')
    await dialog.getByLabel('Name of the new device').fill('attic')
    await dialog.getByRole('button', { name: 'Make a code' }).click()
    const picture = await dialog.getByRole('img', { name: 'The code as a picture' }).screenshot()
    const code = await dialog.locator('.code code').innerText()
    await at.page.keyboard.press('Escape')
    const film = join(fleet.root, 'code.mjpeg')
    // One picture of the size of a camera's, with the code in its middle.
    const frame = await at.browser.newPage({ viewport: { width: 640, height: 480 } })
    await frame.setContent(`<body style="margin:0;background:#fff;display:grid;place-items:center;height:480px"><img style="height:440px;image-rendering:pixelated" src="data:image/png;base64,${picture.toString('base64')}">`)
    writeFileSync(film, await frame.screenshot({ type: 'jpeg', quality: 95 }))
    await frame.close()
    const browser = await launch(['--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream', `--use-file-for-fake-video-capture=${film}`])
    try {
      const alone = await fleet.start('filmed')
      const { url, page: address } = await alone.ui()
      const watched = new Watched(browser, new URL(address).origin)
      const context = await watched.context({ viewport: { width: 390, height: 844 } })
      const page = await context.newPage()
      await page.goto(url)
      await page.waitForSelector('h1:has-text("Welcome")')
      await page.goto(`${address}#/welcome?step=mesh&way=join`)
      await page.getByRole('button', { name: 'Scan by camera' }).click()
      await until('the code is filled in', async () => (await page.getByLabel('Code', { exact: true }).inputValue()) === code)
      // The camera is let go, and nobody has joined before somebody says so.
      assert.equal(await page.locator('video').count(), 0)
      assert.equal((await alone.cli('status')).nodes, 1)
      assert.deepEqual([...new Set(watched.wrongs)], [])
      await alone.down()
    } finally {
      await browser.close()
    }
  })
}
