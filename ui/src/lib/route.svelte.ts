// Where the person is: a path and filters behind the `#`, of which the agent never hears.

class Route {
  parts = $state.raw<string[]>([])
  query = $state.raw<URLSearchParams>(new URLSearchParams())
  /** Rises with each change of the path: then the head of the page gets the focus. */
  turn = $state(0)

  constructor() {
    this.#read()
    window.addEventListener('hashchange', () => this.#read())
  }

  get first(): string {
    return this.parts[0] ?? ''
  }

  /** Replaces filters, without a new entry in the browser's history. */
  filter(values: Record<string, string | undefined>): void {
    const query = new URLSearchParams(this.query)
    for (const [name, value] of Object.entries(values)) {
      if (value) query.set(name, value)
      else query.delete(name)
    }
    const text = query.toString()
    history.replaceState(null, '', '#/' + this.parts.map(encodeURIComponent).join('/') + (text ? '?' + text : ''))
    this.query = query
  }

  go(path: string): void {
    location.hash = path
  }

  #read(): void {
    const [path = '', query = ''] = location.hash.replace(/^#\/?/, '').split('?', 2)
    const parts = path.split('/').filter(Boolean).map(decode)
    if (parts.join('/') !== this.parts.join('/')) this.turn++
    this.parts = parts
    this.query = new URLSearchParams(query)
  }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

export const route = new Route()
