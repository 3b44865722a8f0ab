// A line along the top of the window that moves while the server works; short work does not show it.
const SHOWN_AFTER = 150  // ms
const SHEET = `
#busy-line { position: fixed; z-index: 3000; top: 0; left: 0; right: 0; height: 3px; overflow: hidden;
  pointer-events: none; visibility: hidden }
#busy-line::after { content: ""; position: absolute; width: 40%; height: 100%; background: #5b7bef;
  animation: busy-line 1.4s ease-in-out infinite }
@keyframes busy-line { from { left: -40% } to { left: 100% } }`

export function render({model}) {
  const line = dv.told(dv.node("div"), {role: "progressbar", label: "The server is at work"})
  line.id = "busy-line"
  document.body.append(dv.node("style", "", SHEET), line)
  let timer = null
  dv.follow(model, ["busy"], () => {
    clearTimeout(timer)
    if (model.busy) timer = setTimeout(() => { line.style.visibility = "visible" }, SHOWN_AFTER)
    else line.style.visibility = "hidden"
  })
}
