const {node, root} = dv
const SVG = "http://www.w3.org/2000/svg"
const STYLE = `
.box { display: flex; gap: 24px; flex-wrap: wrap; align-items: flex-start; }
svg { display: block; max-width: 100%; height: auto; font: 11px Roboto, "Helvetica Neue", Arial, sans-serif; }
text { fill: var(--dv-muted); }
text.on { fill: var(--dv-text); font-weight: 600; }
rect.cell { cursor: pointer; }
rect.mark { fill: none; stroke: var(--dv-text); stroke-width: 2; pointer-events: none; }
rect.pair { fill: none; stroke: var(--dv-selected); stroke-width: 2.5; pointer-events: none; }
svg:focus { outline: none; }
svg:focus-visible { outline: 2px solid var(--dv-primary); outline-offset: 3px; border-radius: 4px; }
.side { min-width: 220px; max-width: 320px; flex: 1; }
.value { font-size: 26px; font-weight: 600; font-variant-numeric: tabular-nums; margin: 2px 0; }
.pairname { font-weight: 500; overflow-wrap: anywhere; min-height: 2.8em; }
.help { color: var(--dv-muted); line-height: 1.5; margin: 10px 0 0; }
.scale { height: 8px; border-radius: 4px; margin-top: 14px; }
.ends { display: flex; justify-content: space-between; color: var(--dv-muted); font-size: 11.5px; font-variant-numeric: tabular-nums; }
p { color: var(--dv-muted); margin: 4px 0; }
`

const make = (tag, attributes = {}) => {
  const made = document.createElementNS(SVG, tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  return made
}

export function render({model, el}) {
  const box = root(el, STYLE, "box")
  let focus = null

  const colour = (value) => {
    if (value === null) return "var(--dv-wash)"
    const stops = model.colours, at = Math.max(0, Math.min(1, (value - model.low) / (1 - model.low))) * (stops.length - 1)
    const low = Math.min(Math.floor(at), stops.length - 2)
    return `color-mix(in srgb, ${stops[low + 1]} ${(at - low) * 100}%, ${stops[low]})`
  }

  const draw = () => {
    const names = model.layers, count = names.length
    if (!count) {
      box.replaceChildren(node("p", "", model.empty))
      return
    }
    const cell = Math.max(9, Math.min(26, Math.floor(460 / count)))
    const gutter = 8 + 6.1 * Math.max(...names.map((name) => name.length))
    const every = Math.max(1, Math.ceil(12 / cell))
    const width = gutter + (count - 0.5) * cell + Math.max(gutter * 0.68, cell), height = count * cell + gutter * 0.76 + 8
    const svg = make("svg", {viewBox: `0 0 ${width} ${height}`, width, height, tabindex: 0, role: "img",
      "aria-label": "Linear CKA of every pair of layers; arrow keys move, Enter opens the pair"})
    const labels = []
    names.forEach((name, row) => {
      const label = make("text", {x: gutter - 6, y: (row + 0.5) * cell, "text-anchor": "end", "dominant-baseline": "central"})
      const foot = make("text", {x: 0, y: 0, "text-anchor": "start", "dominant-baseline": "central",
        transform: `translate(${gutter + (row + 0.5) * cell} ${count * cell + 8}) rotate(48)`})
      for (const text of [label, foot]) {
        text.textContent = row % every ? "" : name
        svg.append(text)
      }
      labels.push([label, foot])
      for (let column = 0; column < count; column++) {
        const value = model.values[row][column]
        const square = make("rect", {class: "cell", x: gutter + column * cell, y: row * cell, width: cell - 1, height: cell - 1, rx: 2})
        square.style.fill = colour(value)
        square.dataset.pair = `${row},${column}`
        square.addEventListener("mouseenter", () => tell(row, column))
        square.addEventListener("click", () => model.send_msg({left: names[row], right: names[column]}))
        svg.append(square)
      }
    })
    const mark = make("rect", {class: "mark", width: cell + 1, height: cell + 1, rx: 3, visibility: "hidden"})
    const pair = make("rect", {class: "pair", width: cell + 1, height: cell + 1, rx: 3, visibility: "hidden"})
    const place = (rect, row, column) => {
      rect.setAttribute("x", gutter + column * cell - 1)
      rect.setAttribute("y", row * cell - 1)
      rect.setAttribute("visibility", "visible")
    }
    const [left, right] = model.pair
    if (names.includes(left) && names.includes(right)) place(pair, names.indexOf(left), names.indexOf(right))
    svg.append(pair, mark)

    const value = node("div", "value", "–"), name = node("div", "pairname"), side = node("div", "side")
    value.setAttribute("aria-live", "polite")
    const overline = node("div", "overline", "Linear CKA")
    const scale = node("div", "scale")
    scale.style.background = `linear-gradient(90deg, ${model.colours.join(", ")})`
    const ends = node("div", "ends")
    for (const end of [model.low > 0 ? model.low.toFixed(1) : "0: unrelated", "1: alike"]) ends.append(node("span", "", end))
    side.append(overline, value, name, scale, ends, node("div", "help", model.help))

    const tell = (row, column) => {
      focus = [row, column]
      const number = model.values[row][column]
      value.textContent = number === null ? "none" : number.toFixed(3)
      name.textContent = `${names[row]} and ${names[column]}`
      place(mark, row, column)
      labels.forEach(([label, foot], index) => {
        label.setAttribute("class", index === row ? "on" : "")
        foot.setAttribute("class", index === column ? "on" : "")
        label.textContent = index % every && index !== row ? "" : names[index]
        foot.textContent = index % every && index !== column ? "" : names[index]
      })
    }
    const shown = () => {
      if (names.includes(left) && names.includes(right)) tell(names.indexOf(left), names.indexOf(right))
      mark.setAttribute("visibility", "hidden")
    }
    svg.addEventListener("mouseleave", shown)
    svg.addEventListener("keydown", (event) => {
      const steps = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}
      const [row, column] = focus ?? [0, 0]
      if (event.key in steps) {
        const inside = (index) => Math.max(0, Math.min(count - 1, index))
        tell(inside(row + steps[event.key][0]), inside(column + steps[event.key][1]))
      } else if (event.key === "Enter") model.send_msg({left: names[row], right: names[column]})
      else return
      event.preventDefault()
    })
    box.replaceChildren(svg, side)
    shown()
  }
  let asked = false
  const soon = () => {
    if (asked) return
    asked = true
    queueMicrotask(() => { asked = false; draw() })
  }
  for (const name of ["layers", "values", "pair", "low", "empty"]) model.on(name, soon)
  draw()
}
