"""The colours of the report: one set of roles, a light and a dark value each.

A chart is drawn with the light values; the page's style sheet maps each of them to its role, so that the
same SVG follows the reader's scheme.
"""

from __future__ import annotations

# role: (light, dark). Every light value is used once: the style sheet finds the role by it. The pairs of
# colours that meet in one chart differ in lightness as well, and marks differ in shape or dash.
ROLES: dict[str, tuple[str, str]] = {
    "surface": ("#fefefe", "#0f141b"),
    "ink": ("#1b2129", "#e7ebf0"),
    "muted": ("#5a6573", "#9aa6b4"),
    "grid": ("#e1e5ea", "#262f3a"),
    "axis": ("#b4bcc6", "#465261"),
    "risk": ("#fdf1ef", "#23181c"),
    "model": ("#0a5bc4", "#6cb0ff"),
    "rule": ("#b1560f", "#f0a35c"),
    "static": ("#7a3fa8", "#c99cf0"),
    "null": ("#78828e", "#8894a1"),
    "known": ("#1d7a46", "#5fce8d"),
    "worse": ("#b3261e", "#ff8f85"),
    "better": ("#1c7c45", "#62d190"),
    "same": ("#5b6674", "#9ba7b5"),
    "unknown": ("#8b95a1", "#7f8b98"),
}

LIGHT = {role: pair[0] for role, pair in ROLES.items()}


def style() -> str:
    """CSS: the custom properties in both schemes, and the rules that bind charts to them."""
    light = "".join(f"--{role}:{pair[0]};" for role, pair in ROLES.items())
    dark = "".join(f"--{role}:{pair[1]};" for role, pair in ROLES.items())
    bound = "".join(
        f'figure svg [fill="{value}"]{{fill:var(--{role})}}'
        f'figure svg [stroke="{value}"]{{stroke:var(--{role})}}'
        for role, value in LIGHT.items()
    )
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{bound}\n"
    )
