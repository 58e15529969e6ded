"""How the page looks: light and dark, on a phone and on a desktop."""

SERIES = ("blue", "orange", "green", "violet", "red", "grey")
"""Colours of a chart's lines, in this order; each is a variable of the style."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1c1d1f; --faint: #5c6066; --line: #dcdedf; --grid: #e6e7e8; --link: #1d5fae;
  --blue: #2a6fc4; --orange: #cf5a1b; --green: #16835a; --violet: #7a4fc0; --red: #c23a46; --grey: #767b82;
  --warn: #fff3d6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16181b; --card: #1e2125; --ink: #e8e9eb; --faint: #a3a9b0; --line: #363b41; --grid: #2d3136;
    --blue: #6ba8ee; --orange: #f08a4b; --green: #45bd8c; --violet: #b08df0; --red: #f0757f; --grey: #9aa0a7;
    --link: #84b6f0; --warn: #3a3015;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
p, li { hyphens: manual; }
a { color: var(--link); }
header p, figcaption, .tiles dt, .tiles span { color: var(--faint); }
code { font: .9em ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; list-style: none; padding: 0; margin: 1rem 0 0; }
main > section:first-child h2 { margin-top: 1.5rem; }
.scroll { overflow-x: auto; margin: .75rem 0 1.25rem; max-width: 100%; width: fit-content; }
.tables { display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: flex-start; }
.tables .scroll { min-width: 0; }
.scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-size: .925rem; overflow-wrap: normal; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { color: var(--faint); font-weight: 600; border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody th { font-weight: 400; min-width: 6.5rem; }
td { min-width: 6rem; }
td.n, td.r { min-width: 3rem; text-align: right; }
td:last-child, th:last-child { padding-right: 0; }
td.n, thead th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .75rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; }
figure img { background: #fff; border-radius: 4px; }
figure.picture { width: fit-content; max-width: 100%; margin: .75rem 0; }
figure.picture .scroll { margin: 0; }
figure.picture img { width: auto; max-width: none; }
figcaption { font-size: .875rem; margin-top: .25rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .75rem; }
.tiles dt { font-size: .8rem; }
.tiles dd { margin: 0; }
.tiles strong { font-size: 1.25rem; display: block; line-height: 1.3; }
.tiles span { font-size: .8rem; }
.warning { background: var(--warn); border-left: 4px solid var(--orange); padding: .5rem .75rem; max-width: 46rem; }
@media print { body { max-width: none; } .scroll { overflow: visible; } }
"""
