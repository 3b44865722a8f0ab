// Keys of the map, and which of Shift and Alt are down when the pointer goes down on it.
const KEYS = new Set(["+", "=", "-", "0", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Escape", "s", "?"])
const RING = ".bk-events:focus-visible { outline: 2px solid #3457d5 !important; outline-offset: -3px; }"

// A pointer held for 300 ms would be a press to Bokeh, neither a click nor the beginning of a lasso.
window.Bokeh.require("core/ui_gestures").UIGestures.press_threshold = 1e9

const find = (root) => {
  for (const element of root.querySelectorAll("*")) {
    if (element.classList.contains("bk-events")) return element
    const inner = element.shadowRoot && find(element.shadowRoot)
    if (inner) return inner
  }
  return null
}

export function render({model, el}) {
  const scope = el.getRootNode().host.getRootNode()
  let named = null

  const name = () => {
    const target = find(scope)
    if (!target) return false
    target.setAttribute("role", "application")
    target.setAttribute("aria-label", model.label)
    if (target !== named) {
      const style = document.createElement("style")
      style.textContent = RING
      target.getRootNode().append(style)
      named = target
    }
    return true
  }
  const wait = () => { if (!name()) setTimeout(wait, 200) }
  wait()
  model.on("label", name)

  scope.addEventListener("focusin", name)
  scope.addEventListener("keydown", (event) => {
    if (!KEYS.has(event.key) || event.ctrlKey || event.metaKey || event.altKey) return
    event.preventDefault()
    event.stopPropagation()
    model.send_msg({key: event.key})
  })
  scope.addEventListener("pointerdown", (event) => model.send_msg({shift: event.shiftKey, alt: event.altKey}), true)
}
