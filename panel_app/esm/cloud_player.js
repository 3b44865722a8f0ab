// The player over slices, from the highest on the left to the lowest on the right: along log sigma, or from map to map.
const SECONDS = 4

class Player {
  constructor(view) {
    this.view = view
    this.bar = dv.node("div", "player")
    this.words = view.model.words
    this.button = dv.press("▶ Play", this.words.play, () => this.toggle(), "play")
    this.track = dv.node("div", "track")
    this.slider = dv.node("input")
    Object.assign(this.slider, {type: "range", ariaLabel: this.words.slider, title: this.words.help})
    this.slider.addEventListener("input", () => { this.stop(false); this.view.go(-Number(this.slider.value), false) })
    this.slider.addEventListener("change", () => this.view.go(this.view.at, true))
    this.now = dv.node("div", "now")
    this.speed = dv.node("select")
    this.speed.title = "How fast the player goes"
    for (const speed of ["0.5", "1", "2"]) this.speed.append(new Option(`${speed}×`, speed, speed === "1", speed === "1"))
    const label = dv.node("label", "", "Speed")
    label.append(this.speed)
    const previous = dv.press("‹", this.words.previous, () => this.jump(1))
    const next = dv.press("›", this.words.next, () => this.jump(-1))
    this.bar.append(this.button, previous, next, this.now, this.track, label)
  }
  // Show the noise level on show, with a mark for each slice.
  follow() {
    const {places, at} = this.view
    if (!places?.fits) return
    if (this.marked !== places) this.mark(places)
    this.slider.value = -at
    this.now.textContent = this.words.share ? `${Math.round(-100 * at)} %` : `σ ${shortSigma(at)}`
    this.slider.setAttribute("aria-valuetext", this.now.textContent)
    const [label, help] = this.view.playing ? ["❚❚ Pause", "Pause"] : ["▶ Play", this.words.play]
    if (this.button.textContent !== label) Object.assign(this.button, {textContent: label, title: help, ariaLabel: help})
  }
  mark(places) {
    this.marked = places
    const {lowest, highest} = places
    Object.assign(this.slider, {min: -highest, max: -lowest, step: (highest - lowest) / 400})
    const ticks = places.levels.map(({label, at}) => {
      const share = (highest - at) / (highest - lowest), tick = dv.press(label, `Show the slice at ${label}`, () => this.show(at))
      if (this.words.share) tick.style.transform = `translateX(-${100 * share}%)`
      tick.style.left = `calc(8px + ${share} * (100% - 16px))`
      return tick
    })
    this.track.replaceChildren(this.slider, ...ticks)
  }
  show(at) {
    this.stop(false)
    this.view.go(at, true)
  }
  jump(by) {
    const ats = this.view.places.levels.map((level) => level.at), near = 1e-6
    const wanted = by > 0 ? ats.find((at) => at > this.view.at + near) : ats.findLast((at) => at < this.view.at - near)
    if (wanted !== undefined) this.show(wanted)
  }
  toggle() {
    const {view} = this
    if (view.playing) { this.stop(true); return }
    if (view.at <= view.places.lowest + 1e-6) view.at = view.places.highest
    view.playing = true
    this.before = null
    this.follow()
    view.later()
  }
  stop(tell) {
    if (!this.view.playing) return
    this.view.playing = false
    this.view.go(this.view.at, tell)
  }
  step(now) {
    const {view} = this, {places} = view
    if (!view.playing || !places.fits) return
    const passed = this.before === null ? 0 : Math.min(now - this.before, 100) / 1000
    this.before = now
    const seconds = Math.max(SECONDS, 1.2 * (places.slices - 1)) / Number(this.speed.value)
    view.at = Math.max(view.at - passed / seconds * (places.highest - places.lowest), places.lowest)
    this.follow()
    if (view.at <= places.lowest) this.stop(true)
  }
}
