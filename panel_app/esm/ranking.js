const {node, told, picture, press, root, titled} = dv
const STYLE = `
table { border-collapse: collapse; width: 100%; font-size: 12.5px; }
th { text-align: left; font-weight: 600; font-size: 11.5px; color: var(--dv-muted); padding: 4px; border-bottom: 1px solid var(--dv-faint);
  cursor: pointer; white-space: nowrap; user-select: none; position: sticky; top: 0; background: var(--dv-surface); }
th button { all: unset; cursor: pointer; }
td { padding: 5px 4px; border-bottom: 1px solid var(--dv-faint); white-space: nowrap; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.wide { white-space: normal; overflow-wrap: anywhere; }
.swatch { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; }
tbody.opens tr { cursor: pointer; }
tbody.opens tr:hover { background: var(--dv-wash); }
tbody tr.active { background: color-mix(in srgb, var(--dv-primary) 12%, transparent); }
tbody tr.active td:first-child { font-weight: 600; }
tbody tr:focus-visible { outline: 2px solid var(--dv-primary); outline-offset: -2px; }
.cell { display: grid; grid-template-columns: 1fr 40px; gap: 6px; align-items: center; }
.track { height: 6px; border-radius: 3px; background: var(--dv-wash); overflow: hidden; position: relative; min-width: 20px; }
.fill { height: 100%; border-radius: 3px; background: var(--dv-primary); }
.fill.decides { background: var(--dv-path); }
.fill.decides.hollow { background: none; box-sizing: border-box; border: 1.5px solid var(--dv-path); }
.tick { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--dv-text); opacity: .55; }
.beside { all: unset; cursor: pointer; color: var(--dv-primary); padding: 0 6px; border-radius: 4px; }
.beside:hover { text-decoration: underline; }
.none { color: var(--dv-muted); }
.frame { max-height: 420px; overflow-y: auto; border: 1px solid var(--dv-faint); border-radius: 8px; }
.frame th { z-index: 1; padding: 7px 10px; }
.frame td { padding: 4px 10px; white-space: normal; }
.frame .cell { grid-template-columns: minmax(60px, 150px) 36px; gap: 8px; justify-content: end; }
td.picture { width: 36px; padding-right: 0; }
img { width: 36px; height: 36px; border-radius: 6px; }
tr.active img { box-shadow: 0 0 0 2px var(--dv-selected); }
.name { font-weight: 500; overflow-wrap: anywhere; }
.id { font-size: 11.5px; font-weight: 400; color: var(--dv-muted); overflow-wrap: anywhere; }
.more { all: unset; cursor: pointer; color: var(--dv-primary); padding: 8px 10px; font-size: 12.5px; }
`

export function render({model, el}) {
  const box = root(el, STYLE)
  let sort = {...model.sort}

  const sorted = () => sort.key === null || model.remote ? model.rows : dv.sorted(model.rows, sort.key, sort.down)

  const bar = (value, column, row) => {
    const mark = row[`${column.key}_mark`]
    const fill = node("div", `fill ${column.bar}${mark ? " hollow" : ""}`)
    fill.style.width = `${Math.max(0, Math.min(1, value)) * 100}%`
    const track = node("div", "track", fill)
    const base = row[column.baseline]
    if (typeof base === "number") {
      const tick = titled("div", "tick", undefined, `Without the mask: ${base.toFixed(2)}`)
      tick.style.left = `calc(${Math.min(1, base) * 100}% - 1px)`
      track.append(tick)
    }
    const made = node("div", "cell", track, node("span", "num", value.toFixed(2) + (mark ? ` ${mark}` : "")))
    const note = row[`${column.key}_note`]
    if (note) made.title = note
    return made
  }

  const cell = (row, column) => {
    const value = row[column.key]
    if (column.picture) return node("td", "picture", picture(value, ""))
    const td = node("td", value === null || value === undefined ? "none" : "")
    if (column.bar && typeof value === "number") td.append(bar(value, column, row))
    else if (column.named) td.append(node("div", "name", value), node("div", "id", row.id))
    else {
      td.textContent = row[`${column.key}_text`] ?? value ?? "–"
      td.title = row[`${column.key}_note`] ?? ""
    }
    if (column.swatch && row.colour) {
      const swatch = node("span", "swatch")
      swatch.style.background = row.colour
      td.prepend(swatch)
    }
    if (column.wide) td.classList.add("wide")
    if (column.number) td.classList.add("number")
    return td
  }

  const line = (row) => {
    const tr = titled("tr", row.active ? "active" : "", undefined, row.title ?? `Open ${row.layer} at σ ${row.sigma_text}`)
    tr.append(...model.columns.map((column) => cell(row, column)))
    if (!model.opens) return tr
    tr.tabIndex = 0
    const open = (event) => model.send_msg({open: row.id, beside: model.beside && event.shiftKey})
    tr.addEventListener("click", open)
    if (model.points) tr.addEventListener("mouseenter", () => model.send_msg({point: row.id}))
    tr.addEventListener("keydown", (event) => { if (event.key === "Enter") open(event) })
    if (model.beside) {
      const button = press("Right", `Open ${row.layer} at σ ${row.sigma_text} on the right`, (event) => {
        event.stopPropagation()
        model.send_msg({open: row.id, beside: true})
      }, "beside")
      button.addEventListener("keydown", (event) => event.stopPropagation())
      tr.append(node("td", "", button))
    }
    return tr
  }

  const head = (column) => {
    const th = titled("th", column.number ? "number" : "", undefined, column.help)
    th.scope = "col"
    if (!column.label) return th
    const arrow = sort.key === column.key ? (sort.down ? " ↓" : " ↑") : ""
    if (arrow) told(th, {sort: sort.down ? "descending" : "ascending"})
    th.append(node("button", "", column.label + arrow))
    th.addEventListener("click", () => {
      if (model.remote) { model.send_msg({sort: column.key}); return }
      sort = {key: column.key, down: sort.key === column.key ? !sort.down : true}
      draw()
    })
    return th
  }

  const draw = () => {
    if (!model.rows.length) { box.replaceChildren(node("p", "", model.empty)); return }
    const at = box.querySelector(".frame")?.scrollTop ?? 0
    const headings = node("tr", "", ...model.columns.map(head), model.beside && node("th"))
    const body = node("tbody", model.opens ? "opens" : "", ...sorted().map(line))
    const table = told(node("table", "", node("thead", "", headings), body), model.label ? {label: model.label} : {})
    if (!model.remote) { box.replaceChildren(table); return }
    const more = model.more && press(model.more, model.more, () => model.send_msg({more: true}), "more")
    const frame = node("div", "frame", table, more)
    if (model.points) frame.addEventListener("mouseleave", () => model.send_msg({point: ""}))
    box.replaceChildren(frame)
    frame.scrollTop = at
  }
  let waits = false
  const soon = () => {  // several changes come with one message
    if (waits) return
    waits = true
    queueMicrotask(() => { waits = false; draw() })
  }
  model.on("sort", () => { sort = {...model.sort}; soon() })
  for (const name of ["rows", "columns", "empty", "more"]) model.on(name, soon)
  draw()
}
