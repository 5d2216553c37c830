// The time, as the page shows it: once a second while somebody looks.

class Clock {
  now = $state(Date.now())

  constructor() {
    setInterval(() => !document.hidden && (this.now = Date.now()), 1_000)
    document.addEventListener('visibilitychange', () => (this.now = Date.now()))
  }
}

export const clock = new Clock()
