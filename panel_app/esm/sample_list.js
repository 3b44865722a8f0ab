const {node, told, press, root, titled} = dv
const STYLE = `
.sort { display: flex; gap: 10px; align-items: baseline; font-size: 11.5px; color: var(--dv-muted); padding: 2px 0 4px; }
.sort button { width: auto; height: auto; border-radius: 4px; font: inherit; padding: 1px 3px; }
.sort button[aria-pressed="true"] { color: var(--dv-text); font-weight: 600; }
ul { display: flex; flex-direction: column; }
li { display: grid; grid-template-columns: 40px 1fr auto 28px; gap: 10px; align-items: center; padding: 5px 2px;
  border-bottom: 1px solid var(--dv-faint); }
ul.fixed li { grid-template-columns: 40px 1fr auto; }
ul.opens li { cursor: pointer; }
ul.opens li:hover { background: var(--dv-wash); }
li:last-child { border-bottom: 0; }
li:focus-visible { outline: 2px solid var(--dv-primary); outline-offset: -2px; border-radius: 6px; }
li.active { background: color-mix(in srgb, var(--dv-selected) 12%, transparent); }
img, .waiting { width: 40px; height: 40px; border-radius: 6px; background: var(--dv-wash); box-sizing: border-box; }
li.suggested img { box-shadow: 0 0 0 1.5px var(--dv-neighbour); }
li.manual img { box-shadow: 0 0 0 3px var(--dv-neighbour); }
.name { font-weight: 500; overflow-wrap: anywhere; }
.note { font-size: 12px; }
.id { font-size: 11.5px; color: var(--dv-muted); word-break: break-all; }
.distance { font-variant-numeric: tabular-nums; color: var(--dv-muted); font-size: 12px; }
button { width: 26px; height: 26px; border: 0; border-radius: 50%; background: none; color: var(--dv-muted);
  font-size: 16px; line-height: 1; cursor: pointer; }
button:hover { background: var(--dv-wash); color: var(--dv-text); }
`
const KEYS = [["title", "Class"], ["id", "Name"]]

export function render({model, el}) {
  const box = root(el, STYLE)
  let sort = null
  let pictures = {}
  const waiting = new Set()
  let asking = null

  const watcher = new IntersectionObserver((seen) => {
    for (const {target, isIntersecting} of seen) {
      if (!isIntersecting) continue
      watcher.unobserve(target)
      waiting.add(target.dataset.id)
    }
    if (waiting.size && asking === null) {
      asking = setTimeout(() => {
        model.send_msg({need: [...waiting]})
        waiting.clear()
        asking = null
      }, 60)
    }
  }, {rootMargin: "160px"})

  const picture = (entry) => {
    const src = entry.src || pictures[entry.id]
    if (!src) {
      const empty = node("div", "waiting")
      empty.dataset.id = entry.id
      watcher.observe(empty)
      return empty
    }
    return dv.picture(src, `${entry.title}, ${entry.id}`)
  }

  const move = (item, by) => {
    const rows = [...box.querySelectorAll("li")]
    const next = rows[rows.indexOf(item) + by]
    if (next) next.focus()
  }

  const row = (entry) => {
    const item = node("li", `${entry.tone || ""} ${entry.active ? "active" : ""}`)
    item.tabIndex = 0
    item.dataset.id = entry.id
    const label = node(
      "div", "", node("div", "name", entry.title), entry.note && node("div", "note", entry.note),
      node("div", "id", entry.id))
    label.title = entry.help || ""
    item.append(picture(entry), label, titled("span", "distance", entry.detail, model.detail_help))
    const open = () => { if (model.opens) model.send_msg({open: entry.id}) }
    const drop = () => { if (model.removable) model.send_msg({remove: entry.id}) }
    if (model.removable) {
      const dropped = (event) => { event.stopPropagation(); drop() }
      item.append(press("×", `Remove ${entry.id}`, dropped, "remove", model.remove_help))
    }
    item.addEventListener("click", open)
    item.addEventListener("keydown", (event) => {
      if (event.target !== item) return
      if (event.key === "Enter") open()
      else if (event.key === "Delete" || event.key === "Backspace") { move(item, 1); drop() }
      else if (event.key === "ArrowDown") move(item, 1)
      else if (event.key === "ArrowUp") move(item, -1)
      else return
      event.preventDefault()
    })
    return item
  }

  const sorting = () => node("div", "sort", "Sort by", ...[[null, model.order], ...KEYS].map(([key, label]) =>
    told(press(label, label, () => { sort = key; draw() }), {pressed: sort === key})))

  const draw = () => {
    const root = el.getRootNode()
    const focused = root.activeElement ? root.activeElement.dataset.id : undefined
    watcher.disconnect()
    waiting.clear()
    if (!model.entries.length) {
      box.replaceChildren(...(model.empty ? [node("p", "", model.empty)] : []))
      return
    }
    const entries = sort === null ? model.entries : dv.sorted(model.entries, sort)
    const looks = `${model.removable ? "" : "fixed"} ${model.opens ? "opens" : ""}`
    const list = told(node("ul", looks, ...entries.map(row)), {label: model.label})
    const tops = model.sortable && model.entries.length > 1 ? [sorting()] : []
    box.replaceChildren(...tops, list, ...(model.more ? [node("p", "", model.more)] : []))
    if (focused) [...list.children].find((item) => item.dataset.id === focused)?.focus()
  }

  const come = (message) => {
    Object.assign(pictures, message.pictures)
    for (const empty of box.querySelectorAll(".waiting")) {
      const entry = model.entries.find((other) => other.id === empty.dataset.id)
      if (entry && pictures[entry.id]) empty.replaceWith(picture(entry))
    }
  }

  model.on("entries", () => {
    const present = new Set(model.entries.map((entry) => entry.id))
    pictures = Object.fromEntries(Object.entries(pictures).filter(([id]) => present.has(id)))
    draw()
  })
  for (const name of ["empty", "more", "label"]) model.on(name, draw)
  model.on("msg:custom", come)
  model.on("remove", () => watcher.disconnect())
  draw()
}
