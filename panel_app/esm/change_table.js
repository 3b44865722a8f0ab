const STYLE = `
.frame { max-height: 420px; overflow-y: auto; border: 1px solid var(--dv-faint); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 12.5px; }
th { text-align: left; font-weight: 600; font-size: 11.5px; color: var(--dv-muted); padding: 7px 10px; position: sticky; top: 0;
  background: var(--dv-surface); box-shadow: inset 0 -1px var(--dv-faint); z-index: 1; }
th button { all: unset; cursor: pointer; }
th button:focus-visible, .more:focus-visible { outline: 2px solid var(--dv-primary); outline-offset: 2px; }
td { padding: 4px 10px; border-bottom: 1px solid var(--dv-faint); }
td.picture { width: 36px; padding-right: 0; }
img { width: 36px; height: 36px; image-rendering: pixelated; border-radius: 6px; display: block; object-fit: contain;
  background: var(--dv-wash); }
img.photo { image-rendering: auto; }
tbody tr { cursor: pointer; }
tbody tr:hover { background: var(--dv-wash); }
tbody tr:focus-visible { outline: 2px solid var(--dv-primary); outline-offset: -2px; }
tbody tr.active { background: color-mix(in srgb, var(--dv-selected) 14%, transparent); }
tbody tr.active img { box-shadow: 0 0 0 2px var(--dv-selected); }
.name { font-weight: 500; overflow-wrap: anywhere; }
.id { font-size: 11.5px; color: var(--dv-muted); overflow-wrap: anywhere; }
.cell { display: grid; grid-template-columns: minmax(60px, 150px) 36px; gap: 8px; align-items: center; justify-content: end; }
.track { height: 6px; border-radius: 3px; background: var(--dv-wash); overflow: hidden; }
.fill { height: 100%; border-radius: 3px; background: var(--dv-primary); }
.num { font-variant-numeric: tabular-nums; text-align: right; }
.more { all: unset; cursor: pointer; color: var(--dv-primary); padding: 8px 10px; font-size: 12.5px; }
p { color: var(--dv-muted); margin: 4px 0; }
`

const node = (tag, cls, text) => {
  const made = document.createElement(tag)
  made.className = cls
  if (text !== undefined) made.textContent = text
  return made
}

export function render({model, el}) {
  const style = document.createElement("style")
  style.textContent = STYLE
  const box = document.createElement("div")
  el.append(style, box)

  const row = (entry) => {
    const tr = node("tr", entry.active ? "active" : "")
    tr.tabIndex = 0
    tr.title = `Select ${entry.id} on both maps`
    const image = document.createElement("img")
    image.onload = () => { image.className = image.naturalWidth > 64 ? "photo" : "" }
    image.src = entry.src
    image.alt = ""
    const picture = node("td", "picture")
    picture.append(image)
    const name = node("td", "")
    name.append(node("div", "name", entry.title), node("div", "id", entry.id))
    const cell = node("div", "cell")
    const track = node("div", "track")
    const fill = node("div", "fill")
    fill.style.width = `${entry.change * 100}%`
    track.append(fill)
    cell.append(track, node("span", "num", entry.change.toFixed(2)))
    const change = node("td", "")
    change.append(cell)
    tr.append(picture, name, change)
    const choose = () => model.send_msg({choose: entry.id})
    tr.addEventListener("click", choose)
    tr.addEventListener("keydown", (event) => { if (event.key === "Enter") choose() })
    tr.addEventListener("mouseenter", () => model.send_msg({point: entry.id}))
    return tr
  }

  const head = (key, label, help, right) => {
    const th = node("th", "")
    th.title = help
    th.setAttribute("scope", "col")
    if (right) th.style.textAlign = "right"
    const arrow = model.sort === key ? (model.down ? " ↓" : " ↑") : ""
    if (arrow) th.setAttribute("aria-sort", model.down ? "descending" : "ascending")
    const button = node("button", "", label + arrow)
    button.addEventListener("click", () => model.send_msg({sort: key}))
    th.append(button)
    return th
  }

  const draw = () => {
    if (!model.entries.length) {
      box.replaceChildren(...(model.empty ? [node("p", "", model.empty)] : []))
      return
    }
    const at = box.querySelector(".frame")?.scrollTop ?? 0
    const table = document.createElement("table")
    table.setAttribute("aria-label", "Samples by how much their neighbourhood changes")
    const thead = document.createElement("thead")
    const tr = document.createElement("tr")
    tr.append(node("th", ""), head("name", "Sample", "Sort by class and id"),
      head("change", "Neighbours changed", "Share of the nearest samples that are others on the other map: 0 none, 1 all", true))
    thead.append(tr)
    const tbody = document.createElement("tbody")
    tbody.append(...model.entries.map(row))
    table.append(thead, tbody)
    const frame = node("div", "frame")
    frame.append(table)
    frame.addEventListener("mouseleave", () => model.send_msg({point: ""}))
    if (model.more) {
      const more = node("button", "more", model.more)
      more.addEventListener("click", () => model.send_msg({more: true}))
      frame.append(more)
    }
    box.replaceChildren(frame)
    frame.scrollTop = at
  }
  let asked = false
  const soon = () => {
    if (asked) return
    asked = true
    queueMicrotask(() => { asked = false; draw() })
  }
  for (const name of ["entries", "empty", "sort", "down", "more"]) model.on(name, soon)
  draw()
}
