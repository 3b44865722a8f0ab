const {node, told, press, picture, link, root, follow, titled} = dv
const STYLE = `
li { display: grid; grid-template-columns: 56px minmax(0, 1fr); gap: 10px; padding: 8px 2px; border-bottom: 1px solid var(--dv-faint); }
li:last-child { border-bottom: 0; }
.thumb { width: 56px; height: 56px; border-radius: 8px; background: var(--dv-wash); overflow: hidden; }
img { width: 56px; height: 56px; }
.name { font-weight: 500; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.detail, .when { color: var(--dv-muted); font-size: 12px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.note { font-size: 12px; color: var(--dv-path); }
.acts { display: flex; flex-wrap: wrap; gap: 2px 10px; margin-top: 3px; font-size: 12px; }
button { all: unset; cursor: pointer; color: var(--dv-primary); border-radius: 3px; }
button:hover { text-decoration: underline; }
button:focus-visible { outline-offset: 2px; }
button[disabled] { color: var(--dv-muted); cursor: default; text-decoration: none; }
`
const ACTS = [
  ["show", "Show", "Show its images and steps again, from what was logged"],
  ["load", "Load into form", "Fill in the form as it was for this generation"],
  ["replay", "Replay", "Make it once more and compare the images"],
]

export function render({model, el}) {
  const box = root(el, STYLE)

  const row = (entry) => {
    const thumb = node("div", "thumb", entry.src && picture(entry.src, entry.title))
    const acts = ACTS.map(([key, label, help]) => {
      const act = () => model.send_msg({[key]: entry.id})
      const button = press(label, `${label}: ${entry.title}, ${entry.when}`, act, "", help)
      button.disabled = model.busy
      return button
    })
    const about = node(
      "div", "", titled("div", "name", entry.title), titled("div", "detail", entry.detail),
      node("div", "when", entry.when), node("div", "acts", ...acts, entry.url && link(entry.url, "MLflow run")),
      entry.note && node("div", "note", entry.note))
    return node("li", "", thumb, about)
  }

  follow(model, ["entries", "empty", "busy"], () => {
    const list = told(node("ul", "", ...model.entries.map(row)), {label: "Logged generations"})
    box.replaceChildren(model.entries.length ? list : node("p", "", model.empty))
  })
}
