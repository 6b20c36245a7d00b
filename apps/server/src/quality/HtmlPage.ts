/** A page that stands alone: no script, nothing from any host, light and dark. */
export const htmlPage = (title: string, body: string): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)}</title>
<style>
:root { color-scheme: light dark; --ink: #16181d; --soft: #545b66; --ground: #ffffff; --line: #dfe3e8; --good: 35 110 60; --bad: 165 30 30 }
@media (prefers-color-scheme: dark) { :root { --ink: #eceef2; --soft: #a4abb6; --ground: #101317; --line: #2a3038; --good: 110 205 140; --bad: 245 130 120 } }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
p.soft, caption, th { color: var(--soft) }
caption { text-align: left; max-width: calc(100vw - 3rem) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child, td.text { text-align: left }
.maps { display: flex; flex-wrap: wrap; gap: 1.5rem }
.maps td { min-width: 3rem; text-align: center }
.text { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 14px }
.text span { box-decoration-break: clone }
</style>
</head>
<body>
${body}
</body>
</html>
`

const entities: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }

export const escaped = (text: string): string => text.replaceAll(/[&<>"]/g, (character) => entities[character]!)
