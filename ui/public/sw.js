// Keeps the files of the page, and nothing that the agent answers, so that the page opens while the agent does not run and says so.
const CACHE = 'sigil-page'

/** Files that a text names: the page its script and sheet, a script the screens that it asks for later. */
const named = (text) => [...text.matchAll(/["'`](?:\/assets\/|\.\/)([\w.-]+\.(?:js|css))["'`]/g)].map((found) => `/assets/${found[1]}`)

/** The page as it is now, with all that belongs to it. Files of an older one stay until a newer one has all of its own. */
async function keep(answer) {
  const cache = await caches.open(CACHE)
  // What is not below /assets/ keeps its name when it changes.
  for (const file of ['/icon.svg', '/manifest.webmanifest']) {
    const got = await fetch(file)
    if (!got.ok) return
    await cache.put(file, got)
  }
  const files = new Set(named(await answer.clone().text()))
  for (const file of files) {
    if (!(await cache.match(file))) {
      const got = await fetch(file)
      if (!got.ok) return
      await cache.put(file, got)
    }
    if (file.endsWith('.js')) for (const one of named(await (await cache.match(file)).text())) files.add(one)
  }
  await cache.put('/', answer)
  for (const request of await cache.keys()) {
    const { pathname } = new URL(request.url)
    if (pathname.startsWith('/assets/') && !files.has(pathname)) await cache.delete(request)
  }
}

self.addEventListener('install', (event) => {
  event.waitUntil(fetch('/', { cache: 'no-store' }).then(keep).then(() => self.skipWaiting()))
})
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()))
self.addEventListener('fetch', (event) => {
  const { origin, pathname } = new URL(event.request.url)
  if (event.request.method !== 'GET' || origin !== self.location.origin) return
  if (event.request.mode === 'navigate' && pathname === '/') {
    const fresh = fetch(event.request).then((answer) => {
      if (answer.ok) event.waitUntil(keep(answer.clone()))
      return answer
    })
    event.respondWith(fresh.catch(async (error) => (await caches.match('/')) ?? Promise.reject(error)))
  } else if (pathname.startsWith('/assets/')) {
    event.respondWith(caches.match(event.request).then((kept) => kept ?? fetch(event.request)))
  } else if (pathname === '/icon.svg' || pathname === '/manifest.webmanifest') {
    event.respondWith(fetch(event.request).catch(async (error) => (await caches.match(pathname)) ?? Promise.reject(error)))
  }
})
