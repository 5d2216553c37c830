// Keeps the files of the page, and nothing that the agent answers, so that the page opens while the agent does not run and says so.
const CACHE = 'sigil-page'

/** The page as it is now, with the files that it names. Files of an older one stay until a newer one has all of its own. */
async function keep(answer) {
  const cache = await caches.open(CACHE)
  const html = await answer.clone().text()
  const files = [...html.matchAll(/"(\/assets\/[\w.-]+)"/g)].map((found) => found[1])
  const wanted = [...files, '/icon.svg', '/manifest.webmanifest']
  for (const file of wanted) {
    // What is not below /assets/ keeps its name when it changes.
    if (file.startsWith('/assets/') && (await cache.match(file))) continue
    const got = await fetch(file)
    if (!got.ok) return
    await cache.put(file, got)
  }
  await cache.put('/', answer)
  for (const request of await cache.keys()) {
    const { pathname } = new URL(request.url)
    if (pathname.startsWith('/assets/') && !files.includes(pathname)) await cache.delete(request)
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
