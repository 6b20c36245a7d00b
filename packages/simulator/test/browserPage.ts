import { browserScenario } from "./browserScenario.ts"
import { simulated } from "./Experiments.ts"

/** Runs in the browser: writes the hash of its plans into the page. */
declare const document: { body: { innerHTML: string } }

document.body.innerHTML = `<output>${simulated(browserScenario).hash}</output>`
