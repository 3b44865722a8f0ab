const {node, press, picture, link, root, follow, titled} = dv
const STYLE = `
.strip { display: flex; gap: 12px; overflow-x: auto; padding: 2px 2px 6px; }
figure { margin: 0; flex: none; width: 84px; }
button { all: unset; cursor: pointer; display: block; border-radius: 8px; }
button:focus-visible { outline: 2px solid var(--dv-primary); outline-offset: 2px; }
img { width: 84px; height: 84px; image-rendering: pixelated; border-radius: 8px; display: block; object-fit: contain; background: var(--dv-wash); }
img.photo { image-rendering: auto; }
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
  const box = root(el, STYLE, "strip")
  box.setAttribute("role", "list")
  box.setAttribute("aria-label", "Generations of this visit")

  const pathToggle = (entry) => {
    const label = titled("label", entry.drawable || entry.drawn ? "" : "off", undefined, entry.drawable
      ? "Draw this generation's path on the map beside that of the one on show"
      : entry.drawn ? "Its path is on the map in this colour" : "Its path lies on another map")
    const tick = node("input")
    tick.type = "checkbox"
    tick.checked = entry.drawn
    tick.disabled = !entry.drawable
    tick.setAttribute("aria-label", `Path of ${entry.title} on the map`)
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
    const figure = node("figure", entry.active ? "active" : "")
    figure.setAttribute("role", "listitem")
    const button = press("", `Show generation ${entry.title}`, () => model.send_msg({show: entry.id}))
    button.title = entry.help
    button.append(picture(entry.src, entry.title))
    const caption = node("figcaption")
    caption.append(node("div", "name", entry.title), node("div", "detail", entry.detail), pathToggle(entry))
    if (entry.url) caption.append(link(entry.url, "MLflow run"))
    figure.append(button, caption)
    return figure
  }

  follow(model, ["entries"], () => box.replaceChildren(...model.entries.map(card)))
}
