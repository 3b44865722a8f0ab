const STYLE = `
.result { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 8px 28px; align-items: start; }
.trio { display: flex; gap: 12px; }
figure { margin: 0; }
figcaption { font-size: 12px; color: var(--dv-muted); margin-bottom: 5px; }
img { image-rendering: pixelated; display: block; border-radius: 6px; background: var(--dv-wash); object-fit: contain; }
img.photo { image-rendering: auto; }
.trio img { width: 124px; height: 124px; }
.trio img, .screen .frame { cursor: zoom-in; }
dialog { border: 0; padding: 0; border-radius: 10px; background: var(--dv-surface); color: var(--dv-text); max-width: 94vw; }
dialog::backdrop { background: rgba(0, 0, 0, .55); }
dialog img { width: min(88vmin, 640px); height: min(88vmin, 640px); cursor: zoom-out; border-radius: 0; }
dialog p { margin: 8px 12px; font-size: 12.5px; }
.samples { display: flex; flex-wrap: wrap; gap: 6px; margin-top: 10px; max-width: 396px; }
.samples button, .film button { all: unset; cursor: pointer; border-radius: 5px; display: block; }
.samples img { width: 34px; height: 34px; border-radius: 5px; }
button:focus-visible { outline: 2px solid var(--dv-primary) !important; outline-offset: 2px; }
[aria-pressed="true"] img { box-shadow: 0 0 0 2px var(--dv-primary); }
.player { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 4px 16px; min-width: 0; }
.screen { position: relative; width: 124px; height: 124px; }
.screen .frame { width: 124px; height: 124px; }
.screen .inset { position: absolute; right: 4px; bottom: 4px; width: 40px; height: 40px; border-radius: 4px; box-shadow: 0 0 0 2px var(--dv-surface); }
.side { min-width: 0; display: flex; flex-direction: column; gap: 8px; }
.bar { display: flex; gap: 4px; align-items: center; }
.bar button { border: 1px solid var(--dv-faint); background: none; color: inherit; border-radius: 6px; height: 28px; min-width: 30px; cursor: pointer; font: inherit; }
.bar button:hover { background: var(--dv-wash); }
.note { font-size: 12.5px; font-variant-numeric: tabular-nums; line-height: 1.5; }
.note .muted { color: var(--dv-muted); }
.film { display: flex; gap: 4px; overflow-x: auto; padding: 3px; grid-column: 1 / -1; }
.film button { flex: none; }
.film img { width: 38px; height: 38px; border-radius: 4px; }
.film span { display: block; font-size: 10.5px; text-align: center; color: var(--dv-muted); font-variant-numeric: tabular-nums; margin-top: 2px; }
`

const node = (tag, cls, value) => {
  const made = document.createElement(tag)
  if (cls) made.className = cls
  if (value !== undefined) made.textContent = value
  return made
}

const picture = (src, alt, cls) => {
  const image = node("img", cls)
  image.onload = () => image.classList.toggle("photo", image.naturalWidth > 64)
  image.src = src
  image.alt = alt
  return image
}

export function render({model, el}) {
  const style = node("style")
  style.textContent = STYLE
  const box = node("div", "result")
  el.append(style, box)
  const left = node("div")
  const player = node("div", "player")
  box.append(left, player)
  const whole = node("dialog")
  whole.addEventListener("click", () => whole.close())
  el.append(whole)
  let timer = null

  const enlarge = (src, label) => {
    whole.replaceChildren(picture(src, label), node("p", "", label))
    whole.showModal()
  }

  const drawImages = () => {
    const sample = model.samples[model.active]
    if (!sample) { left.replaceChildren(); return }
    const trio = node("div", "trio")
    for (const [key, label] of [["image", "Generated"], ["baseline", "Baseline, no mask"], ["difference", "Difference"]]) {
      if (!sample[key]) continue
      const figure = node("figure")
      const image = picture(sample[key], `${label}, ${sample.title}`)
      image.title = "Click to enlarge"
      image.addEventListener("click", () => enlarge(sample[key], `${label}, ${sample.title}`))
      figure.append(node("figcaption", "", label), image)
      trio.append(figure)
    }
    left.replaceChildren(trio)
    if (model.samples.length > 1) {
      const strip = node("div", "samples")
      model.samples.forEach((other, index) => {
        const button = node("button")
        button.setAttribute("aria-label", `Sample ${index + 1}`)
        button.setAttribute("aria-pressed", String(index === model.active))
        button.title = other.title
        button.append(picture(other.image, other.title))
        button.addEventListener("click", () => model.send_msg({sample: index}))
        strip.append(button)
      })
      left.append(strip)
    }
  }

  let frame, inset, note, buttons = []
  const go = (index, tell = true) => {
    const step = model.steps[index]
    if (!step) return
    model.step = index
    frame.src = step.frame
    frame.alt = `Step ${index + 1}, estimate of the image`
    inset.hidden = !step.noised
    if (step.noised) inset.src = step.noised
    note.replaceChildren(
      node("div", "", `Step ${index + 1} of ${model.steps.length}, σ ${step.sigma}`), node("div", "muted", step.note))
    buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === index)))
    const film = buttons[index].parentNode
    film.scrollTo({left: buttons[index].offsetLeft - film.clientWidth / 2, behavior: "smooth"})
    if (tell) model.send_msg({step: index})
  }

  const stop = () => { clearInterval(timer); timer = null }
  const drawSteps = () => {
    stop()
    player.replaceChildren()
    if (!model.steps.length) return
    const shown = node("figure")
    const screen = node("div", "screen")
    frame = picture("", "", "frame")
    frame.title = "Click to enlarge"
    frame.addEventListener("click", () => enlarge(frame.src, frame.alt))
    inset = picture("", "The model's noisy input at this step", "inset")
    inset.title = "What the model was given at this step"
    screen.append(frame, inset)
    shown.append(node("figcaption", "", "Step by step"), screen)
    const side = node("div", "side")
    side.append(node("figcaption", "", "\u00a0"))
    const bar = node("div", "bar")
    const move = (label, help, action) => {
      const button = node("button", "", label)
      button.setAttribute("aria-label", help)
      button.title = help
      button.addEventListener("click", action)
      bar.append(button)
      return button
    }
    move("‹", "Previous step", () => { stop(); go(Math.max(0, model.step - 1)) })
    move("▶", "Play the steps", () => {
      if (timer) { stop(); return }
      let next = model.step >= model.steps.length - 1 ? 0 : model.step + 1
      timer = setInterval(() => {
        go(next)
        next += 1
        if (next >= model.steps.length) stop()
      }, 220)
    })
    move("›", "Next step", () => { stop(); go(Math.min(model.steps.length - 1, model.step + 1)) })
    note = node("div", "note")
    side.append(bar, note)
    const film = node("div", "film")
    buttons = model.steps.map((step, index) => {
      const button = node("button")
      button.setAttribute("aria-label", `Frame ${index + 1}, σ ${step.sigma}`)
      button.append(picture(step.frame, ""), node("span", "", step.sigma))
      button.addEventListener("click", () => { stop(); go(index) })
      film.append(button)
      return button
    })
    player.append(shown, side, film)
    go(Math.min(model.step, model.steps.length - 1), false)
  }

  for (const name of ["samples", "active"]) model.on(name, drawImages)
  model.on("steps", drawSteps)
  model.on("remove", stop)
  drawImages()
  drawSteps()
}
