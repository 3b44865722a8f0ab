// What the panes share; it stands before each pane's own module.
const dv = {
  node(tag, cls = "", text = undefined) {
    const made = document.createElement(tag)
    if (cls) made.className = cls
    if (text !== undefined) made.textContent = text
    return made
  },
  press(label, help, action, cls = "") {
    const button = dv.node("button", cls, label)
    button.type = "button"
    button.title = help
    button.setAttribute("aria-label", help)
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
  // A pane's root below its style; `draw` fills it now and whenever one of the names changes.
  root(el, style, cls = "") {
    const box = dv.node("div", cls)
    el.append(dv.node("style", "", style), box)
    return box
  },
  follow(model, names, draw) {
    for (const name of names) model.on(name, draw)
    draw()
  },
}
