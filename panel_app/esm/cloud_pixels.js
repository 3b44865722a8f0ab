// Painting a cloud: its points disc by disc, far ones first, and rings, lines and words over them.
// The same picture with and without a graphics card, for there is no WebGL in it.

// Coverage of a disc's pixels, for 4 × 4 places of its middle within a pixel: [dx, dy, 0 … 256, …]
const discs = (radius) => Array.from({length: 16}, (_, place) => {
  const [ox, oy] = [(place % 4 + 0.5) / 4, (Math.floor(place / 4) + 0.5) / 4], reach = Math.ceil(radius + 1), found = []
  for (let dy = -reach; dy <= reach; dy++) for (let dx = -reach; dx <= reach; dx++) {
    const covered = radius + 0.5 - Math.hypot(dx + 0.5 - ox, dy + 0.5 - oy)
    if (covered > 0) found.push(dx, dy, Math.round(Math.min(covered, 1) * 256))
  }
  return Int16Array.from(found)
})

const farFirst = (depths, total) => {
  const BINS = 2048, starts = new Uint32Array(BINS + 1), order = new Uint32Array(total)
  const bin = (i) => Math.min(Math.max(Math.floor((1 - depths[i] / 2) * BINS / 2), 0), BINS - 1)
  for (let i = 0; i < total; i++) starts[bin(i) + 1] += 1
  for (let b = 0; b < BINS; b++) starts[b + 1] += starts[b]
  for (let i = 0; i < total; i++) order[starts[bin(i)]++] = i
  return order
}

const paint = (canvas, seen, places, paper, ratio, radius) => {
  const context = canvas.getContext("2d"), {width, height} = canvas
  const image = context.createImageData(width, height), {xs, ys, depths, total} = seen
  const pixels = new Uint8Array(image.data.buffer), whole = new Uint32Array(image.data.buffer)
  const packed = (r, g, b) => (255 << 24 | b << 16 | g << 8 | r) >>> 0
  whole.fill(packed(...paper))
  const masks = discs(radius * ratio), order = places.solid ? farFirst(depths, total) : null
  for (let place = 0; place < total; place++) {
    const i = order ? order[place] : place, c = i % places.count * 4
    if (!places.colours[c + 3]) continue
    const x = xs[i] * ratio, y = ys[i] * ratio, left = Math.floor(x), top = Math.floor(y)
    if (left < -20 || top < -20 || left > width + 20 || top > height + 20) continue
    const mask = masks[Math.floor((x - left) * 4) + 4 * Math.floor((y - top) * 4)]
    const far = order ? Math.min(Math.max((depths[i] + 0.9) / 2.4, 0), 1) * 0.55 : 0
    const fade = 1 - (1 - far) * places.colours[c + 3] / 255
    const r = Math.round(places.colours[c] * (1 - fade) + paper[0] * fade)
    const g = Math.round(places.colours[c + 1] * (1 - fade) + paper[1] * fade)
    const b = Math.round(places.colours[c + 2] * (1 - fade) + paper[2] * fade), full = packed(r, g, b)
    for (let m = 0; m < mask.length; m += 3) {
      const px = left + mask[m], py = top + mask[m + 1], share = mask[m + 2]
      if (px < 0 || py < 0 || px >= width || py >= height) continue
      const pixel = py * width + px, at = pixel * 4
      if (share === 256) { whole[pixel] = full; continue }
      pixels[at] += ((r - pixels[at]) * share) >> 8
      pixels[at + 1] += ((g - pixels[at + 1]) * share) >> 8
      pixels[at + 2] += ((b - pixels[at + 2]) * share) >> 8
    }
  }
  context.putImageData(image, 0, 0)
}

class Ink {
  constructor(canvas, ratio, paper, ink) {
    Object.assign(this, {context: canvas.getContext("2d"), paper: `rgb(${paper})`, ink: `rgb(${ink})`})
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0)
    this.context.clearRect(0, 0, canvas.width, canvas.height)
    this.context.lineJoin = this.context.lineCap = "round"
  }
  line(points, colour, width, {dash = [], halo = 0, alpha = 1} = {}) {
    for (const [style, thick, pattern] of halo ? [[this.paper, width + halo, []], [colour, width, dash]] : [[colour, width, dash]]) {
      Object.assign(this.context, {strokeStyle: style, lineWidth: thick, globalAlpha: alpha})
      this.context.setLineDash(pattern)
      this.context.beginPath()
      points.forEach(([x, y], i) => i ? this.context.lineTo(x, y) : this.context.moveTo(x, y))
      this.context.stroke()
    }
    this.context.globalAlpha = 1
    this.context.setLineDash([])
  }
  ring([x, y], diameter, width, colour, halo = true) {
    for (const [style, thick] of halo ? [[this.paper, width + 3], [colour, width]] : [[colour, width]]) {
      Object.assign(this.context, {strokeStyle: style, lineWidth: thick})
      this.context.beginPath()
      this.context.arc(x, y, diameter / 2, 0, 2 * Math.PI)
      this.context.stroke()
    }
  }
  dot([x, y], diameter, colour, edge = this.paper) {
    Object.assign(this.context, {fillStyle: colour, strokeStyle: edge, lineWidth: 1.5})
    this.context.beginPath()
    this.context.arc(x, y, diameter / 2, 0, 2 * Math.PI)
    this.context.fill()
    this.context.stroke()
  }
  text([x, y], words) {
    Object.assign(this.context, {font: "600 12px Roboto, sans-serif", lineWidth: 4, strokeStyle: this.paper, fillStyle: this.ink})
    this.context.strokeText(words, x, y)
    this.context.fillText(words, x, y)
  }
}
