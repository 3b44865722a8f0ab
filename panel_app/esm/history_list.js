const {node, press, picture, link, root, follow, titled} = dv
const STYLE = `
ul { list-style: none; margin: 0; padding: 0; }
li { display: grid; grid-template-columns: 56px minmax(0, 1fr); gap: 10px; padding: 8px 2px; border-bottom: 1px solid var(--dv-faint); }
li:last-child { border-bottom: 0; }
.thumb { width: 56px; height: 56px; border-radius: 8px; background: var(--dv-wash); overflow: hidden; }
img { width: 56px; height: 56px; image-rendering: pixelated; display: block; object-fit: contain; }
img.photo { image-rendering: auto; }
.name { font-weight: 500; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.detail, .when { color: var(--dv-muted); font-size: 12px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.note { font-size: 12px; color: var(--dv-path); }
.acts { display: flex; flex-wrap: wrap; gap: 2px 10px; margin-top: 3px; font-size: 12px; }
button { all: unset; cursor: pointer; color: var(--dv-primary); border-radius: 3px; }
button:hover { text-decoration: underline; }
button:focus-visible { outline: 2px solid var(--dv-primary); outline-offset: 2px; }
button[disabled] { color: var(--dv-muted); cursor: default; text-decoration: none; }
p { color: var(--dv-muted); margin: 4px 0; }
`
const ACTS = [
  ["show", "Show", "Show its images and steps again, from what was logged"],
  ["load", "Load into form", "Fill in the form as it was for this generation"],
  ["replay", "Replay", "Make it once more and compare the images"],
]

export function render({model, el}) {
  const box = root(el, STYLE)

  const row = (entry) => {
    const thumb = node("div", "thumb")
    if (entry.src) thumb.append(picture(entry.src, entry.title))
    const acts = node("div", "acts")
    for (const [key, label, help] of ACTS) {
      const button = press(label, `${label}: ${entry.title}, ${entry.when}`, () => model.send_msg({[key]: entry.id}))
      button.title = help
      button.disabled = model.busy
      acts.append(button)
    }
    if (entry.url) acts.append(link(entry.url, "MLflow run"))
    const about = node("div")
    about.append(
      titled("div", "name", entry.title), titled("div", "detail", entry.detail), node("div", "when", entry.when), acts)
    if (entry.note) about.append(node("div", "note", entry.note))
    const item = node("li")
    item.append(thumb, about)
    return item
  }

  follow(model, ["entries", "empty", "busy"], () => {
    const list = node("ul")
    list.setAttribute("aria-label", "Logged generations")
    list.append(...model.entries.map(row))
    box.replaceChildren(model.entries.length ? list : node("p", "", model.empty))
  })
}
