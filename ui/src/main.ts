import { mount } from 'svelte'
import './app.css'
import App from './App.svelte'
import { applyLook } from './lib/look.svelte'
import { session } from './lib/session.svelte'

applyLook()
// Asked before anything is drawn. Somebody who comes with a code has no session yet.
if (!location.hash.startsWith('#/in/')) void session.load()
const target = document.getElementById('app')
if (target) mount(App, { target })

type Policies = { createPolicy(name: string, rules: { createScriptURL(url: string): string }): { createScriptURL(url: string): string } }

/** Lets the page open while the agent does not run. Without it everything else works. */
function keepFiles(): void {
  if (!('serviceWorker' in navigator)) return
  const createScriptURL = (url: string) => {
    if (url !== '/sw.js') throw new TypeError('another worker')
    return url
  }
  const policies = (globalThis as { trustedTypes?: Policies }).trustedTypes
  const script = policies ? policies.createPolicy('sigil-worker', { createScriptURL }) : { createScriptURL }
  navigator.serviceWorker.register(script.createScriptURL('/sw.js')).catch(() => {})
}
window.addEventListener('load', keepFiles)
