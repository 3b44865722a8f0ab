const STYLE = `
.stage { position: relative; overflow: hidden; touch-action: none; cursor: grab; outline: none; border-radius: 6px; }
.stage.over { cursor: pointer; }
.stage:focus-visible { box-shadow: inset 0 0 0 2px var(--dv-primary); }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; }
.card { position: absolute; left: 0; top: 0; pointer-events: none; z-index: 5; }
.player { display: flex; gap: 12px; align-items: center; padding: 10px 14px 4px; font-size: 12.5px; }
.player button, .player select { border: 1px solid var(--dv-faint); background: none; color: inherit; border-radius: 6px; height: 30px; font: inherit; cursor: pointer; }
.player button { min-width: 34px; }
.player button.play { min-width: 78px; font-weight: 500; }
.player button:hover { background: var(--dv-wash); }
.player option { background: var(--dv-surface); }
.player :focus-visible { outline: 2px solid var(--dv-primary); outline-offset: 1px; }
.track { flex: 1; min-width: 120px; position: relative; padding-bottom: 18px; }
.track input { width: 100%; margin: 0; accent-color: var(--dv-primary); display: block; }
.track button { position: absolute; bottom: -4px; transform: translateX(-50%); border: 0; height: 20px; min-width: 0; padding: 0 5px; white-space: nowrap; color: var(--dv-muted); font-variant-numeric: tabular-nums; }
.now { min-width: 64px; font-weight: 600; font-variant-numeric: tabular-nums; }
label { display: flex; gap: 6px; align-items: center; color: var(--dv-muted); }
`
const RINGS = {
  group: {grow: 5, width: 1.6, colour: null},
  suggested: {grow: 9, width: 1.6, colour: "#e5484d"},
  manual: {grow: 11, width: 3.6, colour: "#e5484d"},
  selected: {grow: 13, width: 4, colour: "#2f6fed"},
  hovered: {grow: 6, width: 2, colour: "#8a8f98"},
}
const REACH = 11

const {node} = dv
const shortSigma = (at) => String(Number(Math.exp(at).toPrecision(3)))

class View {
  constructor(model, el) {
    Object.assign(this, {model, camera: new Camera(model.solid), at: model.at, hovered: null, playing: false, waiting: false})
    const style = node("style", "", STYLE)
    this.stage = node("div", "stage")
    Object.assign(this.stage, {tabIndex: 0, ariaLabel: model.label, role: "application"})
    this.points = node("canvas")
    this.over = node("canvas")
    this.card = node("div", "card")
    this.stage.append(this.points, this.over, this.card)
    el.append(style, this.stage)
    if (!model.solid) el.append((this.player = new Player(this)).bar)
    this.listen()
    this.load()
  }
  load() {
    this.places = new Places(this.model)
    this.hovered = null
    this.player?.follow()
    this.later()
  }
  // Several changes come with one message; one drawing answers them.
  later() {
    if (this.waiting) return
    this.waiting = true
    requestAnimationFrame((now) => { this.waiting = false; this.frame(now) })
  }
  frame(now) {
    this.player?.step(now)
    this.draw()
    if (this.playing) this.later()
  }
  go(at, tell) {
    this.at = at
    if (tell) this.model.send_msg({at, of: this.model.key})
    this.player?.follow()
    this.later()
  }

  // -- drawing
  look() {
    const rgb = (name) => {
      this.stage.style.color = `var(${name})`
      return getComputedStyle(this.stage).color.match(/[\d.]+/g).slice(0, 3).map(Number)
    }
    return [rgb("--dv-surface"), rgb("--dv-text")]
  }
  resize() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2), {clientWidth: width, clientHeight: height} = this.stage
    for (const canvas of [this.points, this.over]) {
      const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)]
      if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, {width: w, height: h})
    }
    this.camera.resize(width, height)
    return ratio
  }
  see() {
    const {places} = this, slices = places.solid ? places.slices : 1, total = slices * places.count
    const seen = {xs: new Float32Array(total), ys: new Float32Array(total), depths: new Float32Array(total), total}
    for (let i = 0; i < total; i++) {
      const index = i % places.count
      const spot = places.solid ? places.of(index, Math.floor(i / places.count)) : places.mixed(index, this.at);
      [seen.xs[i], seen.ys[i], seen.depths[i]] = this.camera.see(spot)
    }
    return seen
  }
  draw() {
    this.stage.style.height = `max(360px, calc(100vh - ${this.model.room_below}px))`
    const ratio = this.resize()
    if (!this.places.fits || !this.camera.width) return
    this.camera.begin()
    if (this.hovered && !this.places.solid) this.hover({index: this.hovered.index, slice: this.places.nearer(this.at)})
    const [paper, ink] = this.look()
    this.seen = this.see()
    paint(this.points, this.seen, this.places, paper, ratio, this.model.radius)
    this.decorate(new Ink(this.over, ratio, paper, ink))
    this.stage.dataset.camera = this.camera.toString()
    this.stage.dataset.at = this.at
    this.stage.dataset.key = this.model.key
    this.placeCard()
  }
  spots(index) {
    const {places, camera} = this
    if (!places.solid) return [camera.see(places.mixed(index, this.at))]
    return Array.from({length: places.slices}, (_, slice) => camera.see(places.of(index, slice)))
  }
  decorate(ink) {
    const {places} = this, marks = this.model.marks.filter((mark) => mark.index < places.count)
    if (places.solid) this.frames(ink)
    for (const {index, kind} of marks) if (places.slices > 1 && kind !== "hovered") this.trail(ink, index, kind)
    for (const path of this.model.paths) this.path(ink, path)
    for (const {index, kind} of marks) {
      const ring = RINGS[kind]
      for (const spot of this.spots(index)) ink.ring(spot, 2 * this.model.radius + ring.grow, ring.width, ring.colour ?? ink.ink, kind !== "group")
    }
    if (this.hovered) ink.ring(this.hoveredSpot(), 2 * this.model.radius + 6, 2, "#8a8f98")
  }
  // The way of one sample over sigma: a thread through the stack, or a trail in the plane.
  trail(ink, index, kind) {
    const {places, camera} = this
    if (!places.solid && kind === "group") return
    const flat = (slice) => { const [x, y, z] = places.of(index, slice); return [x, y, places.solid ? z : 0] }
    const way = Array.from({length: places.slices}, (_, slice) => camera.see(flat(slice)))
    const chosen = kind === "selected", colour = RINGS[kind].colour ?? ink.ink
    ink.line(way, colour, chosen ? 2.4 : 1.2, {halo: chosen ? 3 : 0, alpha: chosen ? 1 : kind === "group" ? 0.35 : 0.65})
    if (!chosen || places.solid) return
    for (const spot of way) ink.dot(spot, 7, colour)
    ink.text([way[0][0] + 8, way[0][1] - 8], places.levels[0].label)
    ink.text([way.at(-1)[0] + 8, way.at(-1)[1] - 8], places.levels.at(-1).label)
  }
  // A denoising path: in space each step at its own sigma; in the plane whole, with a marker at the sigma on show.
  // What lies beyond 95 % of held-out samples is hollow and dotted.
  path(ink, {x, y, z, at, colour, dashed, unusual, stretches}) {
    const {places, camera} = this
    const spots = x.map((_, i) => camera.see([
      places.scaled(0, x[i]), places.scaled(1, y[i]), z ? places.scaled(2, z[i]) : places.solid ? places.height(at[i]) : 0]))
    for (const [from, to, dotted] of stretches)
      ink.line(spots.slice(from, to + 1), colour, dashed ? 1.6 : 3, {halo: 3, dash: dotted ? [2, 5] : dashed ? [5, 5] : []})
    spots.forEach((spot, i) => ink.dot(spot, dashed ? 4 : 7, ...(unusual[i] ? [ink.paper, colour] : [colour])))
    if (places.solid) return
    let i = 0  // sigma falls along a path
    while (i < at.length - 2 && at[i + 1] > this.at) i += 1
    const share = Math.min(Math.max((at[i] - this.at) / ((at[i] - at[i + 1]) || 1), 0), 1)
    ink.dot([0, 1].map((axis) => spots[i][axis] + (spots[i + 1][axis] - spots[i][axis]) * share), 15, colour, ink.ink)
  }
  frames(ink) {
    const {places, camera} = this, faint = {alpha: 0.28}
    const [across, along, up] = places.reach
    const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]].map(([x, y]) => [x * across, y * along])
    const heights = places.axes === 3 ? [-up, up] : places.levels.map((level) => places.height(level.at))
    for (const z of heights) ink.line(corners.map(([x, y]) => camera.see([x, y, z])), ink.ink, 1, faint)
    for (const [x, y] of corners.slice(0, 4)) ink.line([heights[0], heights.at(-1)].map((z) => camera.see([x, y, z])), ink.ink, 1, {alpha: 0.16})
    if (places.axes === 2) places.levels.forEach(({label}, i) => {
      const seen = corners.slice(0, 4).map(([x, y]) => camera.see([x, y, heights[i]]))
      const [x, y] = seen.reduce((best, spot) => spot[0] > best[0] ? spot : best)
      ink.text([Math.min(x + 6, camera.width - 48), y + 4], label)
    })
  }

  // -- the pointer
  nearest(x, y) {
    const {seen, places} = this
    let best = null, reach = REACH ** 2
    if (seen) for (let i = 0; i < seen.total; i++) {
      const index = i % places.count, gap = (seen.xs[i] - x) ** 2 + (seen.ys[i] - y) ** 2
      if (gap > reach || !places.colours[index * 4 + 3]) continue
      best = {index, slice: Math.floor(i / places.count)}
      reach = gap
    }
    if (best && !places.solid) best.slice = places.nearer(this.at)
    return best
  }
  hoveredSpot() { return this.spots(this.hovered.index)[this.places.solid ? this.hovered.slice : 0] }
  hover(found) {
    const same = found?.index === this.hovered?.index && found?.slice === this.hovered?.slice
    if (same) return
    this.hovered = found
    this.stage.classList.toggle("over", !!found)
    this.model.send_msg({hover: found ? found.index : null, slice: found?.slice ?? 0, of: this.model.key})
    this.later()
  }
  placeCard() {
    const {card, key} = this.model, {hovered} = this
    const known = hovered && card.of === key && card.index === hovered.index && card.slice === hovered.slice
    this.card.hidden = !known
    if (!known) return
    if (this.told !== card) this.card.innerHTML = card.html  // escaped where it was written
    this.told = card
    const [x, y] = this.hoveredSpot(), {offsetWidth: w, offsetHeight: h} = this.card, {width, height} = this.camera
    const left = x + 16 + w < width ? x + 16 : Math.max(x - 16 - w, 0), top = y + h < height ? y : y - h
    this.card.style.transform = `translate(${left}px, ${Math.max(top, 0)}px)`
  }
  listen() {
    const {stage, camera} = this
    let held = null
    const spot = (event) => { const box = stage.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top] }
    stage.addEventListener("pointerdown", (event) => {
      held = {at: spot(event), moved: 0}
      stage.setPointerCapture(event.pointerId)
    })
    stage.addEventListener("pointermove", (event) => {
      const now = spot(event)
      if (!held) { this.hover(this.nearest(...now)); return }
      const [dx, dy] = [now[0] - held.at[0], now[1] - held.at[1]]
      held.moved += Math.hypot(dx, dy)
      held.at = now
      if (held.moved < 4) return
      camera.move(dx, dy)
      this.later()
    })
    stage.addEventListener("pointerup", (event) => {
      const meant = held && held.moved < 4 ? this.nearest(...spot(event)) : null
      held = null
      if (meant) this.model.send_msg({click: meant.index, of: this.model.key})
    })
    stage.addEventListener("pointerleave", () => { if (!held) this.hover(null) })
    stage.addEventListener("wheel", (event) => {
      event.preventDefault()
      camera.nearerAbout(Math.exp(-event.deltaY * 0.0015), ...spot(event))
      this.later()
    }, {passive: false})
    stage.addEventListener("keydown", (event) => this.key(event))
  }
  key(event) {
    const {camera} = this, turn = {ArrowLeft: [-24, 0], ArrowRight: [24, 0], ArrowUp: [0, -24], ArrowDown: [0, 24]}[event.key]
    if (turn) camera.move(...turn)
    else if (event.key === "+" || event.key === "=") camera.nearer(1.2)
    else if (event.key === "-") camera.nearer(1 / 1.2)
    else if (event.key === "0") camera.home()
    else if (event.key === " " && this.player) this.player.toggle()
    else return
    event.preventDefault()
    this.later()
  }
}

export function render({model, el}) {
  const view = new View(model, el)
  for (const name of ["positions", "colours", "levels"]) model.on(name, () => view.load())
  for (const name of ["marks", "paths", "card", "radius", "dark", "room_below"]) model.on(name, () => view.later())
  model.on("dark", () => setTimeout(() => view.later(), 400))  // the page's colours change a little after
  model.on("at", () => { if (!view.playing) view.go(model.at, false) })
  const watcher = new ResizeObserver(() => view.later())
  watcher.observe(view.stage)
  model.on("remove", () => { view.playing = false; watcher.disconnect() })
}
