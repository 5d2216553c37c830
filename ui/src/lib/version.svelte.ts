// Whether the program has a newer page than this one: asked whenever all is read anew, for a new program begins with a new start.

import { live } from './live.svelte'

class Version {
  /** True once another page is there. What this one asks for later may be gone. */
  newer = $state(false)
  #own = document.querySelector<HTMLScriptElement>('script[type=module][src]')?.getAttribute('src')

  constructor() {
    live.listen((told) => {
      if (told.topic === 'reset' && !this.newer) void this.#look()
    })
  }

  async #look(): Promise<void> {
    try {
      const page = await fetch('/', { cache: 'no-cache' })
      const [, script] = /<script[^>]* src="([^"]+)"/.exec(page.ok ? await page.text() : '') ?? []
      if (script && this.#own && script !== this.#own) this.newer = true
    } catch {
      // Nobody answers; asked again once somebody does.
    }
  }
}

export const version = new Version()
