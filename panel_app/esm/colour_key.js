const {node, told, root, follow} = dv
const STYLE = `
.legend { display: flex; flex-wrap: wrap; gap: 1px 6px; align-items: center; }
button { display: inline-flex; align-items: center; gap: 6px; border: 1px solid transparent; border-radius: 999px;
  background: none; color: inherit; font: inherit; font-size: 12px; padding: 3px 9px 3px 7px; cursor: pointer; }
button:hover { background: var(--dv-wash); }
button.off { opacity: .42; }
button.lit { background: var(--dv-wash); border-color: var(--dv-muted); }
.legend.lit button:not(.lit) { opacity: .55; }
.dot { width: 10px; height: 10px; border-radius: 50%; flex: none; }
.count { color: var(--dv-muted); font-variant-numeric: tabular-nums; }
.scale { display: flex; align-items: center; gap: 10px; width: 100%; max-width: 520px; font-size: 12px; padding: 3px 0; }
.bar { height: 10px; flex: 1; border-radius: 5px; min-width: 140px; }
`

const compact = (value) => Number.isInteger(value) ? String(value) : value.toPrecision(3)

export function render({model, el}) {
  const box = root(el, STYLE)

  const scale = ({label, low, high, colours}) => {
    box.className = "scale"
    const bar = node("div", "bar")
    bar.style.background = `linear-gradient(to right, ${colours.join(", ")})`
    const [name, left, right] = [label, compact(low), compact(high)].map((text) => node("span", "", text))
    left.className = right.className = "num"
    box.append(name, left, bar, right)
  }

  const classes = (entries) => {
    box.className = entries.some((entry) => entry.lit) ? "legend lit" : "legend"
    told(box, {role: "group", label: "Values: click to highlight one, again to show only it"})
    for (const entry of entries) {
      const dot = node("span", "dot"), count = node("span", "count", entry.count.toLocaleString("en"))
      dot.style.background = entry.colour
      const button = node("button", entry.lit ? "lit" : entry.on ? "" : "off", dot, node("span", "", entry.name), count)
      told(button, {pressed: entry.lit || (entry.on && entries.some((one) => !one.on))})
      Object.assign(button, {disabled: !entry.colour, title: entry.help})
      button.addEventListener("click", () => model.send_msg({toggle: entry.name}))
      box.append(button)
    }
  }

  follow(model, ["entries", "scale"], () => {
    box.replaceChildren()
    if (model.scale.colours) scale(model.scale)
    else classes(model.entries)
  })
}
