// Pictures of every screen, for eyes: node shots.mjs SIGIL DIR [FILTER]

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { findings, launch, overflow, Watched } from './browser.mjs'
import { Fleet, until } from './fleet.mjs'

const [sigil, dir, only = ''] = process.argv.slice(2)
mkdirSync(dir, { recursive: true })
const fleet = new Fleet(sigil)
const browser = await launch()
try {
  const laptop = await fleet.start('laptop')
  await fleet.join(laptop, 'server')
  const tablet = await fleet.join(laptop, 'tablet')
  const guest = await fleet.start('guest')
  const call = (...args) => laptop.told('call', '--wait', '5s', ...args)
  const done = await call('server', 'photo')
  await call('server', 'count', '--arg', 'a=1')
  await call('server', 'bad')
  await call('server', 'hostile')
  await tablet.down()
  const waiting = await laptop.told('call', 'tablet', 'count', '--ttl', '2h', '--no-wait')
  void guest.cli('join', '--address', laptop.address, '--yes', laptop.status.check.words.join('-')).catch(() => {})
  await until('the guest is seen', async () => (await laptop.cli('pending')).items?.length)
  console.log(JSON.stringify({ done: done.id ?? done, waiting: waiting.id ?? waiting }))
  const { url, page: address } = await laptop.ui()
  const watched = new Watched(browser, new URL(address).origin)
  const seen = await watched.context()
  const first = await seen.newPage()
  await first.goto(url)
  await first.waitForSelector('h1:has-text("Home")')
  const state = await seen.storageState()
  const calls = (await laptop.cli('calls')).items
  const of = (tool) => calls.find((one) => one.tool === tool)?.id
  const routes = {
    home: '#/home', devices: '#/devices', device: '#/devices/server', 'device-about': '#/devices/server?tab=about', 'device-links': '#/devices/laptop?tab=links',
    run: '#/run', 'run-device': '#/run/server', 'run-form': '#/run/server/forms.all', 'run-root': '#/run/server/forms.root', calls: '#/calls',
    'call-photo': `#/calls/${of('photo')}`, 'call-count': `#/calls/${of('count')}`, 'call-bad': `#/calls/${of('bad')}`, 'call-hostile': `#/calls/${of('hostile')}`, 'call-waiting': `#/calls/${waiting.id ?? of('count')}`,
    approvals: '#/approvals', people: '#/people', activity: '#/activity', logs: '#/activity?tab=logs', doctor: '#/doctor', settings: '#/settings', more: '#/more',
  }
  for (const [width, height, scheme] of [[390, 844, 'light'], [1280, 900, 'light'], [390, 844, 'dark'], [1280, 900, 'dark']]) {
    const context = await watched.context({ viewport: { width, height }, colorScheme: scheme, storageState: state, hasTouch: width < 500, isMobile: width < 500 })
    const page = await context.newPage()
    await page.goto(address)
    for (const [name, hash] of Object.entries(routes)) {
      if (only && !new RegExp(only).test(`${name}-${width}-${scheme}`)) continue
      await page.goto(`${address}${hash}`)
      await page.waitForTimeout(700)
      await page.screenshot({ path: join(dir, `${name}-${width}-${scheme}.png`), fullPage: true })
      const wide = await overflow(page)
      if (wide > 0) console.log(`${name} ${width}: ${wide} px too wide`)
      for (const one of await findings(page)) console.log(`${name} ${width} ${scheme}: ${one}`)
    }
    await context.close()
  }
  for (const width of [390, 1280]) {
    const context = await watched.context({ viewport: { width, height: 844 } })
    const page = await context.newPage()
    await page.goto(address)
    await page.waitForSelector('#code')
    await page.screenshot({ path: join(dir, `signin-${width}-light.png`) })
    await context.close()
  }
  console.log(watched.wrongs.join('\n'))
} finally {
  await browser.close()
  await fleet.stop()
}
