// What a person set for this browser: theme, language, shortcuts.

export type Theme = 'system' | 'light' | 'dark'

function kept(name: string): string | null {
  try {
    return localStorage.getItem(`sigil.${name}`)
  } catch {
    return null
  }
}

function keep(name: string, value: string): void {
  try {
    localStorage.setItem(`sigil.${name}`, value)
  } catch {
    // It counts until the tab is closed.
  }
}

class Look {
  #theme = $state<Theme>((kept('theme') as Theme | null) ?? 'system')
  #keys = $state(kept('keys') !== 'off')

  get theme(): Theme {
    return this.#theme
  }
  set theme(theme: Theme) {
    this.#theme = theme
    keep('theme', theme)
    applyLook()
  }
  /** Shortcuts of single letters. */
  get keys(): boolean {
    return this.#keys
  }
  set keys(on: boolean) {
    this.#keys = on
    keep('keys', on ? 'on' : 'off')
  }
}

export const look = new Look()
export { kept, keep }

export function applyLook(): void {
  const root = document.documentElement
  if (look.theme === 'system') root.removeAttribute('data-theme')
  else root.setAttribute('data-theme', look.theme)
}
