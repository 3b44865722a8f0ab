const {node, told, press, picture, link, root, follow, titled} = dv
const STYLE = `
.strip { display: flex; gap: 12px; overflow-x: auto; padding: 2px 2px 6px; }
figure { margin: 0; flex: none; width: 84px; }
button { all: unset; cursor: pointer; display: block; border-radius: 8px; }
button:focus-visible { outline-offset: 2px; }
img { width: 84px; height: 84px; border-radius: 8px; }
.active img { box-shadow: 0 0 0 2px var(--dv-primary); }
figcaption { font-size: 11.5px; line-height: 1.35; margin-top: 4px; }
label { display: flex; gap: 4px; align-items: center; cursor: pointer; color: var(--dv-muted); }
label.off { opacity: .45; cursor: default; }
input { margin: 0; accent-color: var(--dv-path); }
.way { width: 18px; height: 4px; border-radius: 2px; margin-left: 2px; }
.name { font-size: 12px; font-weight: 500; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.detail { color: var(--dv-muted); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
`

export function render({model, el}) {
  const box = told(root(el, STYLE, "strip"), {role: "list", label: "Generations of this visit"})

  const pathToggle = (entry) => {
    const label = titled("label", entry.drawable || entry.drawn ? "" : "off", undefined, entry.drawable
      ? "Draw this generation's path on the map beside that of the one on show"
      : entry.drawn ? "Its path is on the map in this colour" : "Its path lies on another map")
    const tick = told(node("input"), {label: `Path of ${entry.title} on the map`})
    Object.assign(tick, {type: "checkbox", checked: entry.drawn, disabled: !entry.drawable})
    tick.addEventListener("change", () => model.send_msg({path: entry.id, on: tick.checked}))
    label.append(tick, "Path")
    if (entry.colour) {
      const way = node("span", "way")
      way.style.background = tick.style.accentColor = entry.colour
      label.append(way)
    }
    return label
  }

  const card = (entry) => {
    const show = () => model.send_msg({show: entry.id})
    const button = press(picture(entry.src, entry.title), `Show generation ${entry.title}`, show, "", entry.help)
    const caption = node(
      "figcaption", "", node("div", "name", entry.title), node("div", "detail", entry.detail), pathToggle(entry),
      entry.url && link(entry.url, "MLflow run"))
    return told(node("figure", entry.active ? "active" : "", button, caption), {role: "listitem"})
  }

  follow(model, ["entries"], () => box.replaceChildren(...model.entries.map(card)))
}
