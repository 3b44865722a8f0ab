const STYLE = `
ul { list-style: none; margin: 0; padding: 0; }
li { display: grid; grid-template-columns: 56px minmax(0, 1fr); gap: 10px; padding: 8px 2px; border-bottom: 1px solid var(--dv-faint); }
li:last-child { border-bottom: 0; }
.thumb { width: 56px; height: 56px; border-radius: 8px; background: var(--dv-wash); overflow: hidden; }
img { width: 56px; height: 56px; image-rendering: pixelated; display: block; object-fit: contain; }
img.photo { image-rendering: auto; }
.title { font-weight: 500; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.detail, .when { color: var(--dv-muted); font-size: 12px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.told { font-size: 12px; color: var(--dv-path); }
.acts { display: flex; flex-wrap: wrap; gap: 2px 10px; margin-top: 3px; font-size: 12px; }
button { all: unset; cursor: pointer; color: var(--dv-primary); border-radius: 3px; }
button:hover { text-decoration: underline; }
button:focus-visible { outline: 2px solid var(--dv-primary); outline-offset: 2px; }
button[disabled] { color: var(--dv-muted); cursor: default; text-decoration: none; }
p { color: var(--dv-muted); margin: 4px 0; }
`

const text = (tag, cls, value) => {
  const made = document.createElement(tag)
  made.className = cls
  made.textContent = value
  return made
}

export function render({model, el}) {
  const style = document.createElement("style")
  style.textContent = STYLE
  const box = document.createElement("div")
  el.append(style, box)

  const row = (entry) => {
    const item = document.createElement("li")
    const thumb = document.createElement("div")
    thumb.className = "thumb"
    if (entry.src) {
      const image = document.createElement("img")
      image.onload = () => { image.className = image.naturalWidth > 64 ? "photo" : "" }
      image.src = entry.src
      image.alt = entry.title
      thumb.append(image)
    }
    const about = document.createElement("div")
    const title = text("div", "title", entry.title)
    title.title = entry.title
    const detail = text("div", "detail", entry.detail)
    detail.title = entry.detail
    about.append(title, detail, text("div", "when", entry.when))
    const acts = document.createElement("div")
    acts.className = "acts"
    for (const [key, label, help] of [
      ["show", "Show", "Show its images and steps again, from what was logged"],
      ["load", "Load into form", "Fill in the form as it was for this generation"],
      ["replay", "Replay", "Make it once more and compare the images"],
    ]) {
      const button = text("button", "", label)
      button.type = "button"
      button.title = help
      button.setAttribute("aria-label", `${label}: ${entry.title}, ${entry.when}`)
      button.disabled = model.busy
      button.addEventListener("click", () => { if (!model.busy) model.send_msg({[key]: entry.id}) })
      acts.append(button)
    }
    if (entry.url) {
      const link = text("a", "", "MLflow run")
      link.href = entry.url
      link.target = "_blank"
      link.rel = "noopener"
      acts.append(link)
    }
    about.append(acts)
    if (entry.told) about.append(text("div", "told", entry.told))
    item.append(thumb, about)
    return item
  }

  const draw = () => {
    if (!model.entries.length) {
      box.replaceChildren(text("p", "", model.empty))
      return
    }
    const list = document.createElement("ul")
    list.setAttribute("aria-label", "Logged generations")
    list.append(...model.entries.map(row))
    box.replaceChildren(list)
  }
  for (const name of ["entries", "empty", "busy"]) model.on(name, draw)
  draw()
}
