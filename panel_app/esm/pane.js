// What the panes share; it stands before each pane's own module.
const dv = {
  BASE: `
p { color: var(--dv-muted); margin: 4px 0; }
ul { list-style: none; margin: 0; padding: 0; }
button:focus-visible { outline: 2px solid var(--dv-primary); }
img { image-rendering: pixelated; display: block; object-fit: contain; background: var(--dv-wash); }
img.photo { image-rendering: auto; }
`,
  // `parts` are texts, numbers and nodes; what is undefined, null or false is left out.
  node(tag, cls = "", ...parts) {
    const made = document.createElement(tag)
    if (cls) made.className = cls
    made.append(...parts.filter((part) => part !== undefined && part !== null && part !== false))
    return made
  },
  // What a screen reader is told: a role, and `aria-…` of all others.
  told(made, said) {
    for (const [name, value] of Object.entries(said)) made.setAttribute(name === "role" ? name : `aria-${name}`, value)
    return made
  },
  press(label, help, action, cls = "", title = help) {
    const button = dv.told(dv.titled("button", cls, label, title), {label: help})
    button.type = "button"
    button.addEventListener("click", action)
    return button
  },
  // Small pictures show their pixels, larger ones are photographs.
  picture(src, alt, cls = "") {
    const image = dv.node("img", cls)
    image.onload = () => image.classList.toggle("photo", image.naturalWidth > 64)
    image.src = src
    image.alt = alt
    return image
  },
  link(address, text) {
    const made = dv.node("a", "", text)
    made.href = address
    made.target = "_blank"
    made.rel = "noopener"
    return made
  },
  titled(tag, cls, text, title = text) {
    const made = dv.node(tag, cls, text)
    made.title = title
    return made
  },
  // Without a value last, numbers by size, words as people sort them.
  sorted(rows, key, down = false) {
    return [...rows].sort((a, b) => {
      const [x, y] = [a[key], b[key]]
      if (x === null || x === undefined) return 1
      if (y === null || y === undefined) return -1
      const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", {numeric: true})
      return down ? -order : order
    })
  },
  // A pane's root below its style; `draw` fills it now and whenever one of the names changes.
  root(el, style, cls = "") {
    const box = dv.node("div", cls)
    el.append(dv.node("style", "", dv.BASE + style), box)
    return box
  },
  follow(model, names, draw) {
    for (const name of names) model.on(name, draw)
    draw()
  },
}
