"""The style sheet of a report's page."""

from __future__ import annotations

__all__ = ["COLOURS", "STATES", "style"]

# Ten colours of strategies, the second of each pair for dark pages: any two are 20 apart or more in CIELAB, as they are
# and as protanopes, deuteranopes and tritanopes see them (Machado et al. 2009), and at least 3:1 from the paper.
COLOURS = (
    ("#0b62b5", "#6cb6ff"), ("#ff5500", "#ff8000"), ("#491212", "#d4bda5"), ("#8f1fff", "#775cff"),
    ("#c0877c", "#bdf584"), ("#00a1c2", "#b6688f"), ("#97230c", "#ec1337"), ("#402956", "#9c68b6"),
    ("#0000a3", "#499756"), ("#974963", "#ffff5c"),
)
STATES = {
    "open": ("#b0182b", "#e5505e"), "half-open": ("#f2a33a", "#f0b429"), "ramp": ("#5aa9e6", "#7cc4ff"),
    "isolated": ("#5b21a0", "#a974f5"), "disabled": ("#777777", "#8f8f8f"),
}
# Of providers: light, so that nobody takes them for strategies, with dark text on them on either page.
_PROVIDERS = (
    "#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99", "#bbcc33", "#aaaa00", "#dddddd", "#b9a0d0",
)
_COMMON = """
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1180px; padding: 1.5rem; font: 15px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 1.7rem; margin: 0 0 .3rem }
h2 { font-size: 1.25rem; margin: 0 0 .2rem }
section { border-top: 2px solid var(--rule); padding-top: 1.2rem; margin-top: 2.2rem }
a { color: var(--link) }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem }
summary { cursor: pointer }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem }
dt { font-weight: 600 }
dd { margin: 0 }
.about { margin: 0 }
.verdict { margin: .2rem 0 .9rem; font-weight: 600 }
.facts, small, caption, figure > p { color: var(--soft); font-size: .85rem; margin: .1rem 0 .8rem; font-weight: 400 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem }
caption { caption-side: bottom; text-align: left; margin: 0; padding-top: .3rem }
th, td { padding: .25rem .45rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; white-space: normal }
th[scope=colgroup] { text-align: center; white-space: nowrap }
th[scope=row], thead tr:first-child th:first-child { text-align: left; position: sticky; left: 0;
  background: var(--paper) }
td.best { font-weight: 700; color: var(--good) }
table.overview td small { display: block; margin: 0 }
.best small { color: inherit; font-weight: 400 }
table.overview thead th { max-width: 7rem }
fieldset { border: 1px solid var(--rule); border-radius: 6px; margin: 1rem 0; padding: .3rem .8rem;
  background: var(--paper); display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; position: sticky; top: 0; z-index: 1 }
legend { font-size: .8rem; color: var(--soft); padding: 0 .4rem }
label { cursor: pointer; white-space: nowrap; font-size: .85rem }
figure { margin: 1.2rem 0; break-inside: avoid }
figcaption { font-weight: 600; margin-bottom: .3rem }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 0 1.5rem }
svg { display: block; width: 100%; height: auto }
svg[role=img] { min-width: 480px; font-size: 11.5px }
svg[role=img].wide { min-width: 860px }
svg.swatch { display: inline-block; width: 26px; height: 10px; margin: 0 .4rem; vertical-align: middle }
svg text { fill: var(--soft); font-family: system-ui, sans-serif }
svg text.label { fill: var(--ink) }
svg text.inside { fill: var(--paper); font-size: 11px; font-weight: 600; pointer-events: none }
.grid { stroke: var(--rule); stroke-width: 1 }
.axis { stroke: var(--soft); stroke-width: 1 }
line.slo { stroke: var(--ink); stroke-dasharray: 2 3 }
.line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
.thin { stroke-width: 1.6 }
.rival { stroke-dasharray: 6 4 }
.oracle { stroke-dasharray: 1.5 4; --c: var(--ink) }
.second { stroke-dasharray: 9 3 2 3 }
.point { fill: var(--c); stroke: var(--c); stroke-width: 2; stroke-dasharray: none }
.hollow { fill: var(--paper) }
.edge { fill: none; stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 2 3 }
.band { fill: var(--trouble); opacity: .13 }
.warm { fill: var(--soft); opacity: .13 }
.column { fill: transparent }
.column:hover { fill: var(--soft); opacity: .18 }
.span { stroke: none }
.episode { fill: var(--trouble); background: var(--trouble) }
.closed { fill: var(--rule); background: var(--rule) }
.share { stroke: var(--paper); stroke-width: 1 }
.share.none { fill: var(--none); background: var(--none) }
svg .share + text.inside { fill: #1b1d22 }
svg .share.none + text.inside { fill: var(--paper) }
.key span { display: inline-block; margin-right: 1rem }
.key i { display: inline-block; width: 14px; height: 10px; margin-right: .35rem; border: 1px solid var(--soft) }
.share-row { display: grid; grid-template-columns: minmax(9rem, 15rem) 1fr; align-items: center }
.share-row svg[role=img] { min-width: 0 }
.share-row p { margin: 0; font-size: .85rem }
figure div > p { margin: .4rem 0 .1rem; font-size: .85rem }
@media (max-width: 700px) { .share-row { grid-template-columns: 1fr } fieldset { position: static } }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt }
  nav, details:not([open]), fieldset label:has(input:not(:checked)) { display: none }
  fieldset { position: static }
  section { break-before: page; border: 0; margin: 0 }
  section:first-of-type { break-before: auto }
  .scroll { overflow: visible }
  table { font-size: 7.5pt }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""
_LIGHT = {
    "ink": "#1b1d22", "soft": "#5a5f6b", "paper": "#ffffff", "rule": "#dcdfe5", "link": "#0b57a4", "good": "#0c6b43",
    "trouble": "#b3541e", "none": "#3a3d45",
}
_DARK = {
    "ink": "#e8eaf0", "soft": "#a4aab8", "paper": "#15171c", "rule": "#343946", "link": "#7cb8ff", "good": "#5fd6a0",
    "trouble": "#f0a070", "none": "#e8eaf0",
}


def style(strategies: int) -> str:
    """The sheet, with a switch for so many strategies: ``.tN`` unchecked hides the ``.kN`` of its section."""
    hues = "".join(f".c{n} {{ --c: var(--c{n}) }}\n" for n in range(len(COLOURS)))
    hues += "".join(f".p{n} {{ fill: {hue}; background: {hue} }}\n" for n, hue in enumerate(_PROVIDERS))
    states = "".join(f".{name} {{ fill: var(--{name}); background: var(--{name}) }}\n" for name in STATES)
    switches = "".join(
        f"section:has(.t{n}:not(:checked)) .k{n} {{ display: none }}\n" for n in range(strategies)
    )
    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(1, _DARK)} }} }}\n"
    scheme = f":root {{ color-scheme: light dark; {_variables(0, _LIGHT)} }}\n"
    return f"\n{scheme}{dark}{hues}{_COMMON}{states}{switches}"


def _variables(index: int, others: dict[str, str]) -> str:
    values = {f"c{n}": pair[index] for n, pair in enumerate(COLOURS)}
    values |= {name: pair[index] for name, pair in STATES.items()} | others
    return "; ".join(f"--{name}: {value}" for name, value in values.items())
