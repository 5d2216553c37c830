// The browser, and what is held against every page of it: no request leaves the origin, each is described, nothing is said on the
// console, and the page's policy is never hurt.

import { readFileSync } from 'node:fs'
import { get } from 'node:http'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { chromium } from 'playwright-core'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const described = Object.keys(JSON.parse(readFileSync(join(import.meta.dirname, '../../docs/openapi.json'), 'utf8')).paths)
const PATHS = described.map((path) => new RegExp(`^${path.replace(/[.*+?^$()|[\]\\]/g, '\\$&').replace(/\{[^}]+\}/g, '[^/]+')}$`))
const FILES = /^\/$|^\/assets\/[\w.-]+$|^\/icon\.svg$|^\/manifest\.webmanifest$|^\/sw\.js$/

/** `more`: further switches of the browser. */
export async function launch(more = []) {
  return chromium.launch({
    executablePath: process.env.SIGIL_TEST_CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--disable-background-networking', '--disable-component-update', ...more],
  })
}

export class Watched {
  /** What was wrong so far. */
  wrongs = []
  /** Problems of the agent that a test brings about itself are said on the console by the browser. */
  expected = []

  constructor(browser, origin) {
    Object.assign(this, { browser, origin })
  }

  /** `dist`: the page is that of another directory, and not that of the program. */
  async context({ dist = process.env.SIGIL_TEST_UI_DIST, ...options } = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: 'light', locale: 'en-GB', reducedMotion: 'reduce', ...(dist ? { serviceWorkers: 'block' } : {}), ...options })
    await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: this.origin })
    await context.addInitScript(() => {
      document.addEventListener('securitypolicyviolation', (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))
    })
    // For whoever works on the page: its files as they were built just now, in place of those in the program.
    if (dist) {
      await context.route(/^http:\/\/sigil-[^/]+\/(assets\/.*)?(#.*)?$/, async (route) => {
        const path = new URL(route.request().url()).pathname
        const { host, port } = new URL(route.request().url())
        const { headers } = await new Promise((answer) => get({ host: '127.0.0.1', port, headers: { host } }, (response) => answer(response.resume())))
        const types = { js: 'text/javascript', css: 'text/css' }
        const file = join(dist, path === '/' ? 'index.html' : path)
        delete headers['content-encoding']
        delete headers['content-length']
        return route.fulfill({ headers: { ...headers, 'content-type': types[file.split('.').pop()] ?? 'text/html' }, body: readFileSync(file) })
      })
    }
    context.on('request', (request) => {
      const url = new URL(request.url())
      if (url.protocol === 'blob:' || url.protocol === 'data:') return
      const known = FILES.test(url.pathname) || PATHS.some((path) => path.test(url.pathname))
      if (url.origin !== this.origin) this.wrongs.push(`a request left the origin: ${url.origin}${url.pathname}`)
      else if (!known) this.wrongs.push(`a request that is not described: ${request.method()} ${url.pathname}`)
    })
    context.on('page', (page) => {
      page.on('console', (message) => {
        const text = message.text()
        if (message.type() === 'error' && !/Failed to load resource|net::ERR_/.test(text)) this.wrongs.push(`console: ${text}`)
      })
      page.on('pageerror', (error) => this.wrongs.push(`an error of the page: ${error.message}`))
    })
    return context
  }
}

/** What axe finds on a page. */
export async function findings(page) {
  await page.evaluate(axe)
  const results = await page.evaluate(() =>
    window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'], resultTypes: ['violations'] }),
  )
  return results.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.target.join(' ')).slice(0, 4).join(' | ')} (${one.nodes[0]?.failureSummary?.split('\n')[1]?.trim() ?? ''})`)
}

/** By how many pixels the page is wider than its window. */
export function overflow(page) {
  return page.evaluate(() => Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth))
}

/** Elements whose text is cut off, and not by dots that say so; of a window that is scrolled, what stands out of it. */
export function clipped(page) {
  return page.evaluate(() => {
    const hidden = (style) => style.clipPath !== 'none' || style.visibility === 'hidden'
    return [...document.body.querySelectorAll('*')].flatMap((element) => {
      if (!element.clientWidth || element.closest('svg, #boot, .skip, dialog:not([open])') || ![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) return []
      for (let up = element; up; up = up.parentElement) if (hidden(getComputedStyle(up))) return []
      const style = getComputedStyle(element)
      const cut = (overflow, inner, outer) => ['hidden', 'clip'].includes(overflow) && inner > outer + 1
      const rect = element.getBoundingClientRect()
      const out = rect.left < -1 || rect.right > document.documentElement.clientWidth + 1
      const scrolls = element.closest('pre, .scroll, textarea, table') !== null
      const wrong = (cut(style.overflowX, element.scrollWidth, element.clientWidth) && style.textOverflow !== 'ellipsis') || cut(style.overflowY, element.scrollHeight, element.clientHeight) || (out && !scrolls)
      return wrong ? [`${element.tagName.toLowerCase()}.${element.className?.baseVal ?? element.className}: ${element.textContent.trim().slice(0, 40)}`] : []
    })
  })
}
