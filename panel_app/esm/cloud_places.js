// Where the points of a cloud are, and where the canvas shows them.
//
// The stage says what it shows: data-at (log sigma of the player) and data-camera, from which anybody can tell where
// a place lies on the canvas. In the plane, with x and y scaled to −1 … 1 over the bounds padded by 6 %:
//   (width/2 · (1 + (x − cx)·zoom), height/2 · (1 − (y − cy)·zoom)).
// In space, with all axes scaled alike to −1 … 1 about the bounds' middle (a slice's height: its log sigma, −0.85 … 0.85):
//   a = x·cos(yaw) − y·sin(yaw), b = x·sin(yaw) + y·cos(yaw), depth = b·cos(pitch) − z·sin(pitch),
//   f = scale·distance/(distance + depth), at (width/2 + a·f, height/2 − (z·cos(pitch) + b·sin(pitch))·f).
const DISTANCE = 5, TOP = 0.85, START = {yaw: -0.6, pitch: 0.55, zoom: 1, cx: 0, cy: 0}

class Places {
  constructor(model) {
    this.solid = model.solid
    this.levels = model.levels
    this.slices = Math.max(this.levels.length, 1)
    this.colours = new Uint8Array(model.colours ?? new ArrayBuffer(0))
    this.count = this.colours.length / 4
    this.values = new Float32Array(model.positions ?? new ArrayBuffer(0))
    this.axes = this.count ? this.values.length / this.slices / this.count : 0
    this.fits = this.axes === 2 || this.axes === 3
    if (this.fits) this.measure()
  }
  measure() {
    const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity]
    this.values.forEach((value, i) => {
      const axis = i % this.axes
      if (value < low[axis]) low[axis] = value
      if (value > high[axis]) high[axis] = value
    })
    this.middle = low.map((value, axis) => (value + high[axis]) / 2)
    const half = low.map((value, axis) => (high[axis] - value) / 2 || 1)
    const widest = Math.max(...half.slice(0, this.axes))
    this.reach = half.map((value, axis) => axis === 2 && this.axes === 2 ? TOP : value / widest)
    this.half = this.solid ? half.map(() => widest) : half.map((value) => value * 1.12)
    const heights = this.levels.map((level) => level.at)
    this.lowest = Math.min(...heights)
    this.highest = Math.max(...heights)
  }
  height(at) {
    const share = (at - this.lowest) / (this.highest - this.lowest || 1)
    return (Math.min(Math.max(share, 0), 1) * 2 - 1) * TOP
  }
  // The slices on both sides of a noise level, and the share of the second.
  between(at) {
    let i = 0
    while (i < this.slices - 2 && this.levels[i + 1].at < at) i += 1
    const [a, b] = [this.levels[i].at, this.levels[i + 1].at]
    return [i, i + 1, Math.min(Math.max((at - a) / (b - a), 0), 1)]
  }
  // The slice that is nearer to a noise level.
  nearer(at) {
    const [first, second, share] = this.between(at)
    return share < 0.5 ? first : second
  }
  scaled(axis, value) { return (value - this.middle[axis]) / this.half[axis] }
  // A sample on a slice, scaled; or, in the plane, between two slices.
  of(index, slice) {
    const i = (slice * this.count + index) * this.axes
    const z = this.axes === 3 ? this.scaled(2, this.values[i + 2]) : this.height(this.levels[slice].at)
    return [this.scaled(0, this.values[i]), this.scaled(1, this.values[i + 1]), z]
  }
  mixed(index, at) {
    const [first, second, share] = this.between(at)
    const a = this.of(index, first), b = this.of(index, second)
    return [a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, 0]
  }
}

class Camera {
  constructor(solid) { this.solid = solid; this.home() }
  home() { Object.assign(this, START) }
  resize(width, height) {
    this.width = width
    this.height = height
    this.scale = Math.min(width * 0.3, height * 0.285)
  }
  begin() {
    [this.cosYaw, this.sinYaw] = [Math.cos(this.yaw), Math.sin(this.yaw)];
    [this.cosPitch, this.sinPitch] = [Math.cos(this.pitch), Math.sin(this.pitch)]
  }
  // (x, y, depth) on the canvas
  see([x, y, z]) {
    if (!this.solid) return [this.width / 2 * (1 + (x - this.cx) * this.zoom), this.height / 2 * (1 - (y - this.cy) * this.zoom), 0]
    const a = x * this.cosYaw - y * this.sinYaw, b = x * this.sinYaw + y * this.cosYaw
    const depth = b * this.cosPitch - z * this.sinPitch
    const f = this.scale * this.zoom * DISTANCE / Math.max(DISTANCE + depth, 0.2)
    return [this.width / 2 + a * f, this.height / 2 - (z * this.cosPitch + b * this.sinPitch) * f, depth]
  }
  move(dx, dy) {
    if (this.solid) {
      this.yaw += dx * 0.008
      this.pitch = Math.min(Math.max(this.pitch + dy * 0.008, -1.5), 1.5)
    } else {
      this.cx -= dx / this.width * 2 / this.zoom
      this.cy += dy / this.height * 2 / this.zoom
    }
  }
  nearer(factor) { this.zoom = Math.min(Math.max(this.zoom * factor, 0.3), 60) }
  // Zoom in the plane about a place on the canvas, which stays where it is.
  nearerAbout(factor, x, y) {
    const before = this.zoom, [u, v] = [2 * x / this.width - 1, 1 - 2 * y / this.height]
    this.nearer(factor)
    if (this.solid) return
    this.cx += u / before - u / this.zoom
    this.cy += v / before - v / this.zoom
  }
  toString() {
    const {yaw, pitch, zoom, cx, cy, width, height} = this
    return JSON.stringify({yaw, pitch, zoom, cx, cy, width, height, scale: this.scale * zoom, distance: DISTANCE})
  }
}
