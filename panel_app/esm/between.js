const STYLE = `
.bar { display: flex; gap: 12px; align-items: center; margin-bottom: 8px; }
.bar span { color: var(--dv-muted); white-space: nowrap; overflow: hidden; text-overflow: ellipsis; max-width: 32%; font-size: 12.5px; }
.bar span.on { color: var(--dv-text); font-weight: 600; }
input { flex: 1; accent-color: var(--dv-primary); min-width: 120px; }
button { all: unset; cursor: pointer; padding: 5px 14px; border-radius: 8px; border: 1px solid var(--dv-faint); color: var(--dv-primary);
  font-weight: 500; min-width: 44px; text-align: center; }
button:hover { background: var(--dv-wash); }
button:focus-visible, input:focus-visible { outline: 2px solid var(--dv-primary); outline-offset: 2px; }
.stage { position: relative; height: 440px; background: var(--dv-surface); border: 1px solid var(--dv-faint); border-radius: 8px; overflow: hidden; }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
p { color: var(--dv-muted); margin: 4px 0; }
`
const SECONDS = 3, REACH = 10

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))
const places = (text) => new Uint16Array(bytes(text).buffer)
const ease = (share) => share * share * (3 - 2 * share)

export function render({model, el}) {
  const style = document.createElement("style")
  style.textContent = STYLE
  const bar = document.createElement("div"), stage = document.createElement("div"), empty = document.createElement("p")
  bar.className = "bar"
  stage.className = "stage"
  const play = document.createElement("button"), from = document.createElement("span"), to = document.createElement("span")
  const slider = Object.assign(document.createElement("input"), {type: "range", min: 0, max: 1, step: 0.005, value: model.share})
  slider.setAttribute("aria-label", "Between the maps: 0 left, 1 right")
  slider.title = "Moves every sample from its place on the left map to its place on the right one"
  const canvas = document.createElement("canvas")
  canvas.setAttribute("role", "img")
  canvas.setAttribute("aria-label", "Samples between their places on the left and on the right map")
  stage.append(canvas)
  bar.append(play, from, slider, to)
  el.append(style, bar, stage, empty)

  let left, right, colours, picture = null, waiting = false, started = null, begun = 0
  const share = () => Number(slider.value)

  const read = () => {
    left = places(model.left)
    right = places(model.right)
    colours = bytes(model.colours)
  }

  const view = () => {
    const [width, height] = [stage.clientWidth, stage.clientHeight], part = share()
    const scale = Math.min(width / model.span[0], height / model.span[1]) * 0.94
    const put = (x, y) => [width / 2 + (x - 0.5) * scale, height / 2 - (y - 0.5) * scale]
    const mix = (a, b) => a * (1 - part) + b * part
    const at = (i) => put(mix(left[2 * i], right[2 * i]) / 65535, mix(left[2 * i + 1], right[2 * i + 1]) / 65535)
    const markAt = (mark) => put(mix(mark.left[0], mark.right[0]), mix(mark.left[1], mark.right[1]))
    return {width, height, at, markAt}
  }

  const sheet = (width, height) => {
    const ratio = Math.min(window.devicePixelRatio || 1, 2)
    canvas.width = Math.round(width * ratio)
    canvas.height = Math.round(height * ratio)
    const context = canvas.getContext("2d")
    context.scale(ratio, ratio)
    return context
  }

  const draw = () => {
    const shown = model.count > 0
    bar.style.display = stage.style.display = shown ? "" : "none"
    empty.textContent = shown ? "" : model.empty
    if (!shown || !stage.clientWidth) return
    const {width, height, at, markAt} = view(), context = sheet(width, height)
    if (model.live) {
      const radius = Math.max(1.6, Math.min(4.5, Math.sqrt(0.05 * width * height / model.count / Math.PI)))
      context.globalAlpha = 0.9
      for (let index = 0; index < model.count; index++) {
        const [x, y] = at(index)
        context.fillStyle = `rgb(${colours[3 * index]},${colours[3 * index + 1]},${colours[3 * index + 2]})`
        context.beginPath()
        context.arc(x, y, radius, 0, 2 * Math.PI)
        context.fill()
      }
      context.globalAlpha = 1
    } else if (picture) context.drawImage(picture, 0, 0, width, height)
    for (const mark of model.marks) {
      const [x, y] = markAt(mark)
      for (const [colour, extra] of [["rgba(255,255,255,.8)", 3], [mark.colour, 0]]) {
        context.strokeStyle = colour
        context.lineWidth = mark.width + extra
        context.beginPath()
        context.arc(x, y, 8, 0, 2 * Math.PI)
        context.stroke()
      }
    }
    from.textContent = model.labels[0] ?? ""
    to.textContent = model.labels[1] ?? ""
    from.className = share() < 0.02 ? "on" : ""
    to.className = share() > 0.98 ? "on" : ""
  }

  // A large set is drawn by the server, one picture at a time; the next is asked for when this one is here.
  const ask = () => {
    if (model.live || waiting || !model.count || !stage.clientWidth) return
    waiting = true
    model.send_msg({draw: share(), width: stage.clientWidth, height: stage.clientHeight})
  }
  const arrived = (event) => {
    const {frame, share: drawn} = event.data
    if (!frame) return
    const image = new Image()
    image.onload = () => {
      waiting = false
      picture = image
      draw()
      if (Math.abs(drawn - share()) > 1e-6) ask()
    }
    image.src = frame
  }

  const moved = () => { draw(); ask() }
  const stop = () => { started = null; play.textContent = "Play"; model.share = share() }
  const step = (now) => {
    if (started === null) return
    begun ||= now
    const part = Math.min((now - begun) / (SECONDS * 1000), 1)
    slider.value = ease(part)
    moved()
    if (part < 1) window.requestAnimationFrame(step)
    else stop()
  }
  play.textContent = "Play"
  play.addEventListener("click", () => {
    if (started !== null) return stop()
    started = true
    begun = 0
    play.textContent = "Stop"
    window.requestAnimationFrame(step)
  })
  slider.addEventListener("input", () => { started = null; play.textContent = "Play"; moved() })
  slider.addEventListener("change", () => { model.share = share() })

  const nearest = (event) => {
    if (!model.live || !model.count) return -1
    const box = canvas.getBoundingClientRect(), {at} = view()
    const [px, py] = [event.clientX - box.left, event.clientY - box.top]
    let best = -1, gap = REACH
    for (let index = 0; index < model.count; index++) {
      const [x, y] = at(index), distance = Math.hypot(x - px, y - py)
      if (distance < gap) [best, gap] = [index, distance]
    }
    return best
  }
  let pointed = -1
  const point = (index) => {
    if (index === pointed) return
    pointed = index
    canvas.style.cursor = index < 0 ? "" : "pointer"
    model.send_msg({point: index})
  }
  canvas.addEventListener("mousemove", (event) => point(nearest(event)))
  canvas.addEventListener("mouseleave", () => point(-1))
  canvas.addEventListener("click", (event) => {
    const index = nearest(event)
    if (index >= 0) model.send_msg({choose: index})
  })

  let asked = false
  const soon = () => {
    if (asked) return
    asked = true
    queueMicrotask(() => { asked = false; read(); picture = null; waiting = false; moved() })
  }
  for (const name of ["left", "right", "colours", "count", "span", "live", "labels", "empty"]) model.on(name, soon)
  model.on("marks", draw)
  model.on("share", () => {
    if (started !== null || Math.abs(share() - model.share) < 1e-3) return
    slider.value = model.share
    moved()
  })
  model.on("msg:custom", arrived)
  const watch = new ResizeObserver(moved)
  watch.observe(stage)
  read()
  moved()
  return () => watch.disconnect()
}
