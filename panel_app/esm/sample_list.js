const STYLE = `
ul { list-style: none; margin: 0; padding: 0; display: flex; flex-direction: column; }
li { display: grid; grid-template-columns: 40px 1fr auto 28px; gap: 10px; align-items: center; padding: 5px 2px;
  border-bottom: 1px solid var(--dv-faint); }
li:last-child { border-bottom: 0; }
img { width: 40px; height: 40px; image-rendering: pixelated; border-radius: 6px; display: block; object-fit: contain;
  background: var(--dv-wash); box-sizing: border-box; }
li.suggested img { box-shadow: 0 0 0 1.5px var(--dv-neighbour); }
li.manual img { box-shadow: 0 0 0 3px var(--dv-neighbour); }
img.photo { image-rendering: auto; }
.name { font-weight: 500; overflow-wrap: anywhere; }
.note { font-size: 12px; }
.id { font-size: 11.5px; color: var(--dv-muted); word-break: break-all; }
.distance { font-variant-numeric: tabular-nums; color: var(--dv-muted); font-size: 12px; }
button { width: 26px; height: 26px; border: 0; border-radius: 50%; background: none; color: var(--dv-muted); font-size: 16px;
  line-height: 1; cursor: pointer; }
button:hover { background: var(--dv-wash); color: var(--dv-text); }
button:focus-visible { outline: 2px solid var(--dv-primary); }
p { color: var(--dv-muted); margin: 4px 0; }
`

const text = (tag, cls, value) => {
  const node = document.createElement(tag)
  node.className = cls
  node.textContent = value
  return node
}

export function render({model, el}) {
  const style = document.createElement("style")
  style.textContent = STYLE
  const box = document.createElement("div")
  el.append(style, box)

  const row = (entry) => {
    const item = document.createElement("li")
    item.className = entry.tone
    const image = document.createElement("img")
    image.onload = () => { image.className = image.naturalWidth > 64 ? "photo" : "" }
    image.src = entry.src
    image.alt = `${entry.title}, ${entry.id}`
    const label = document.createElement("div")
    label.title = entry.help || ""
    label.append(text("div", "name", entry.title))
    if (entry.note) label.append(text("div", "note", entry.note))
    label.append(text("div", "id", entry.id))
    const remove = text("button", "remove", "×")
    remove.setAttribute("aria-label", `Remove ${entry.id}`)
    remove.title = "Remove this neighbour"
    remove.addEventListener("click", () => model.send_msg({remove: entry.id}))
    const distance = text("span", "distance", entry.detail)
    distance.title = "Distance to the selected sample"
    item.append(image, label, distance, remove)
    return item
  }

  const draw = () => {
    if (!model.entries.length) {
      box.replaceChildren(...(model.empty ? [text("p", "", model.empty)] : []))
      return
    }
    const list = document.createElement("ul")
    list.setAttribute("aria-label", "Neighbours")
    list.append(...model.entries.map(row))
    box.replaceChildren(list)
  }
  model.on("entries", draw)
  model.on("empty", draw)
  draw()
}
