const {node, press, root, follow, titled} = dv
const STYLE = `
table { border-collapse: collapse; width: 100%; font-size: 12.5px; }
th { text-align: left; font-weight: 600; font-size: 11.5px; color: var(--dv-muted); padding: 4px 6px; border-bottom: 1px solid var(--dv-faint);
  cursor: pointer; white-space: nowrap; user-select: none; position: sticky; top: 0; background: var(--dv-surface); }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--dv-primary); }
td { padding: 5px 6px; border-bottom: 1px solid var(--dv-faint); white-space: nowrap; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.wide { white-space: normal; overflow-wrap: anywhere; }
.swatch { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; }
tbody.opens tr { cursor: pointer; }
tbody.opens tr:hover { background: var(--dv-wash); }
tbody tr.active { background: color-mix(in srgb, var(--dv-primary) 12%, transparent); }
tbody tr.active td:first-child { font-weight: 600; }
tbody tr:focus-visible { outline: 2px solid var(--dv-primary); outline-offset: -2px; }
.cell { display: grid; grid-template-columns: 1fr 34px; gap: 6px; align-items: center; }
.track { height: 6px; border-radius: 3px; background: var(--dv-wash); overflow: hidden; position: relative; min-width: 40px; }
.fill { height: 100%; border-radius: 3px; background: var(--dv-primary); }
.fill.decides { background: var(--dv-path); }
.tick { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--dv-text); opacity: .55; }
.beside { all: unset; cursor: pointer; color: var(--dv-primary); padding: 0 6px; border-radius: 4px; }
.beside:hover { text-decoration: underline; }
.beside:focus-visible { outline: 2px solid var(--dv-primary); }
.none { color: var(--dv-muted); }
p { color: var(--dv-muted); margin: 4px 0; }
`

export function render({model, el}) {
  const box = root(el, STYLE)
  let sort = {...model.sort}

  const sorted = () => {
    if (sort.key === null) return model.rows
    return [...model.rows].sort((a, b) => {
      const [x, y] = [a[sort.key], b[sort.key]]
      if (x === null || x === undefined) return 1
      if (y === null || y === undefined) return -1
      const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", {numeric: true})
      return sort.down ? -order : order
    })
  }

  const bar = (value, column, row) => {
    const track = node("div", "track")
    const fill = node("div", `fill ${column.bar}`)
    fill.style.width = `${Math.max(0, Math.min(1, value)) * 100}%`
    track.append(fill)
    const base = row[column.baseline]
    if (typeof base === "number") {
      const tick = titled("div", "tick", undefined, `Without the mask: ${base.toFixed(2)}`)
      tick.style.left = `calc(${Math.min(1, base) * 100}% - 1px)`
      track.append(tick)
    }
    const cell = node("div", "cell")
    cell.append(track, node("span", "num", value.toFixed(2)))
    return cell
  }

  const cell = (row, column) => {
    const value = row[column.key]
    const td = node("td", value === null || value === undefined ? "none" : "")
    if (column.bar && typeof value === "number") td.append(bar(value, column, row))
    else td.textContent = row[`${column.key}_text`] ?? value ?? "–"
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
    tr.addEventListener("keydown", (event) => { if (event.key === "Enter") open(event) })
    if (model.beside) {
      const button = press("Right", `Open ${row.layer} at σ ${row.sigma_text} on the right`, (event) => {
        event.stopPropagation()
        model.send_msg({open: row.id, beside: true})
      }, "beside")
      button.addEventListener("keydown", (event) => event.stopPropagation())
      const td = node("td")
      td.append(button)
      tr.append(td)
    }
    return tr
  }

  const head = (column) => {
    const th = titled("th", column.number ? "number" : "", undefined, column.help)
    const arrow = sort.key === column.key ? (sort.down ? " ↓" : " ↑") : ""
    th.append(node("button", "", column.label + arrow))
    th.addEventListener("click", () => {
      sort = {key: column.key, down: sort.key === column.key ? !sort.down : true}
      draw()
    })
    return th
  }

  const draw = () => {
    if (!model.rows.length) { box.replaceChildren(node("p", "", model.empty)); return }
    const table = node("table")
    const tr = node("tr")
    tr.append(...model.columns.map(head), ...(model.beside ? [node("th")] : []))
    const thead = node("thead")
    thead.append(tr)
    const tbody = node("tbody", model.opens ? "opens" : "")
    tbody.append(...sorted().map(line))
    table.append(thead, tbody)
    box.replaceChildren(table)
  }
  model.on("sort", () => { sort = {...model.sort}; draw() })
  follow(model, ["rows", "columns", "empty"], draw)
}
