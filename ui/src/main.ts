import { mount } from 'svelte'
import './app.css'
import App from './App.svelte'
import { applyLook } from './lib/look.svelte'

applyLook()
const target = document.getElementById('app')
if (target) mount(App, { target })
