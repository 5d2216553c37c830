import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig, type Plugin } from 'vite'

type Modules = { getModuleInfo(id: string): { importedIds: readonly string[] } | null }
let first: Set<string> | undefined
/** All that the frame and its first screen import is one file; a screen has its own, and what only such need comes with them. */
function chunkOf(id: string, graph: Modules): string | null {
  if (!first) {
    const found = new Set<string>()
    const add = (one: string) => {
      if (found.has(one)) return
      found.add(one)
      graph.getModuleInfo(one)?.importedIds.forEach(add)
    }
    add(new URL('src/main.ts', import.meta.url).pathname)
    first = found
  }
  return first.has(id) ? 'page' : null
}

/** The reader of QR codes needs nothing of the bundler then, and its file (130 kB) stays the same whatever else changes. */
const plainQr: Plugin = {
  name: 'plain-qr',
  transform: (code, id) => (/\/jsqr\/dist\/\w+\.js$/.test(id) ? `const module = { exports: {} }\nconst { exports } = module;\n${code}\nexport default module.exports` : undefined),
}

export default defineConfig({
  plugins: [plainQr, svelte()],
  build: {
    target: 'es2022',
    // A script that polyfills preloading would be one more to trust; every browser that is supported knows it.
    modulePreload: { polyfill: false },
    // A small file inside of another would be a `data:` address, which the page's policy forbids.
    assetsInlineLimit: 0,
    // One sheet: how a screen looks is known before the screen is there.
    cssCodeSplit: false,
    reportCompressedSize: false,
    // The same source gives the same bytes on every machine: `./test ui` looks.
    sourcemap: false,
    rolldownOptions: { output: { codeSplitting: { groups: [{ name: chunkOf }] } } },
  },
})
