import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig } from 'vite'

export default defineConfig({
  plugins: [svelte()],
  build: {
    target: 'es2022',
    // A script that polyfills preloading would be one more to trust; every browser that is supported knows it.
    modulePreload: { polyfill: false },
    // A small file inside of another would be a `data:` address, which the page's policy forbids.
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    // The same source gives the same bytes on every machine: `./test ui` looks.
    sourcemap: false,
  },
})
