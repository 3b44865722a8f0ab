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
.title { font-size: 12px; font-weight: 500; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.detail { color: var(--dv-muted); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
`

export function render({model, el}) {
  const style = document.createElement("style")
  style.textContent = STYLE
  const box = document.createElement("div")
  box.className = "strip"
  box.setAttribute("role", "list")
  box.setAttribute("aria-label", "Generations of this visit")
  el.append(style, box)

  const pathToggle = (entry) => {
    const label = document.createElement("label")
    const tick = document.createElement("input")
    tick.type = "checkbox"
    tick.checked = entry.drawn
    tick.disabled = !entry.drawable
    tick.setAttribute("aria-label", `Path of ${entry.title} on the map`)
    label.className = entry.drawable || entry.drawn ? "" : "off"
    label.title = entry.drawable ? "Draw this generation's path on the map beside that of the one on show"
      : entry.drawn ? "Its path is on the map in this colour" : "Its path lies on another map"
    tick.addEventListener("change", () => model.send_msg({path: entry.id, on: tick.checked}))
    label.append(tick, "Path")
    if (entry.colour) {
      const way = document.createElement("span")
      way.className = "way"
      way.style.background = tick.style.accentColor = entry.colour
      label.append(way)
    }
    return label
  }

  const card = (entry) => {
    const figure = document.createElement("figure")
    figure.className = entry.active ? "active" : ""
    figure.setAttribute("role", "listitem")
    const button = document.createElement("button")
    button.setAttribute("aria-label", `Show generation ${entry.title}`)
    button.title = entry.help
    const image = document.createElement("img")
    image.onload = () => { image.className = image.naturalWidth > 64 ? "photo" : "" }
    image.src = entry.src
    image.alt = entry.title
    button.append(image)
    button.addEventListener("click", () => model.send_msg({show: entry.id}))
    const caption = document.createElement("figcaption")
    const title = document.createElement("div")
    title.className = "title"
    title.textContent = entry.title
    const detail = document.createElement("div")
    detail.className = "detail"
    detail.textContent = entry.detail
    caption.append(title, detail, pathToggle(entry))
    if (entry.url) {
      const link = document.createElement("a")
      link.href = entry.url
      link.target = "_blank"
      link.rel = "noopener"
      link.textContent = "MLflow run"
      caption.append(link)
    }
    figure.append(button, caption)
    return figure
  }

  const draw = () => box.replaceChildren(...model.entries.map(card))
  model.on("entries", draw)
  draw()
}
