const {node, press, picture, root} = dv
const STYLE = `
.result { display: grid; grid-template-columns: minmax(0, max-content) minmax(262px, 1fr); gap: 8px 22px; align-items: start; }
figure { margin: 0; }
figcaption, .row-name { font-size: 12px; color: var(--dv-muted); }
img { image-rendering: pixelated; display: block; border-radius: 6px; background: var(--dv-wash); object-fit: contain; }
img.photo { image-rendering: auto; }
.seeds { overflow-x: auto; padding: 2px 4px 6px 2px; max-height: 420px; overflow-y: auto; }
.grid { display: grid; gap: 4px 6px; align-items: center; justify-content: start; }
.grid img { width: var(--side); height: var(--side); cursor: zoom-in; }
.row-name { position: sticky; left: 0; background: var(--dv-surface); padding-right: 6px; line-height: 1.3; z-index: 1; }
.sample { all: unset; cursor: pointer; text-align: center; font-size: 11.5px; color: var(--dv-muted); border-radius: 5px;
  padding: 1px 0; font-variant-numeric: tabular-nums; }
.sample:hover { background: var(--dv-wash); }
.sample[aria-pressed="true"] { color: var(--dv-primary); font-weight: 600; box-shadow: inset 0 -2px 0 var(--dv-primary); border-radius: 5px 5px 0 0; }
dialog { border: 0; padding: 0; border-radius: 10px; background: var(--dv-surface); color: var(--dv-text); max-width: 94vw; }
dialog::backdrop { background: rgba(0, 0, 0, .55); }
dialog img { width: min(84vmin, 720px); height: min(84vmin, 720px); cursor: zoom-out; border-radius: 0; }
dialog .foot { display: flex; justify-content: space-between; align-items: center; gap: 16px; margin: 8px 12px; font-size: 12.5px; }
.film button { all: unset; cursor: pointer; border-radius: 5px; display: block; }
button:focus-visible, select:focus-visible { outline: 2px solid var(--dv-primary) !important; outline-offset: 2px; }
.film [aria-pressed="true"] img { box-shadow: 0 0 0 2px var(--dv-primary); }
.player { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 4px 16px; min-width: 0; }
.screen { position: relative; width: 124px; height: 124px; margin-top: 5px; }
.screen .frame { width: 124px; height: 124px; cursor: zoom-in; }
.screen .inset { position: absolute; right: 4px; bottom: 4px; width: 40px; height: 40px; border-radius: 4px; box-shadow: 0 0 0 2px var(--dv-surface); }
.side { min-width: 0; display: flex; flex-direction: column; gap: 8px; }
.bar, .actions { display: flex; gap: 4px; align-items: center; flex-wrap: wrap; }
.bar button, .bar select, .actions button, .foot button { border: 1px solid var(--dv-faint); background: none; color: inherit; border-radius: 6px;
  height: 28px; min-width: 30px; cursor: pointer; font: inherit; font-size: 12.5px; }
.actions button, .foot button { padding: 0 10px; }
.bar select { background: var(--dv-surface); }
.bar label { font-size: 12px; color: var(--dv-muted); display: flex; gap: 5px; align-items: center; margin-left: 6px; }
.bar button:hover, .actions button:hover, .foot button:hover { background: var(--dv-wash); }
.actions { grid-column: 1 / -1; }
.note { font-size: 12.5px; font-variant-numeric: tabular-nums; line-height: 1.5; }
.note .muted { color: var(--dv-muted); }
.film { display: flex; gap: 4px; overflow-x: auto; padding: 3px; grid-column: 1 / -1; }
.film button { flex: none; }
.film img { width: 38px; height: 38px; border-radius: 4px; }
.film span { display: block; font-size: 10.5px; text-align: center; color: var(--dv-muted); font-variant-numeric: tabular-nums; margin-top: 2px; }
`

const ROWS = [["image", "Generated"], ["baseline", "Baseline, no mask"], ["difference", "Difference"]]
const FRAME_MS = 220
const PRINTED = 1024

// Pixels are kept as squares: a small picture is printed at a whole multiple of its size.
const save = (image, name) => {
  const times = Math.max(1, Math.ceil(PRINTED / Math.max(image.naturalWidth, image.naturalHeight)))
  const canvas = document.createElement("canvas")
  canvas.width = image.naturalWidth * times
  canvas.height = image.naturalHeight * times
  const context = canvas.getContext("2d")
  context.imageSmoothingEnabled = image.naturalWidth > 64
  context.drawImage(image, 0, 0, canvas.width, canvas.height)
  const link = document.createElement("a")
  link.href = canvas.toDataURL("image/png")
  link.download = `${name.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "").toLowerCase().slice(0, 80)}.png`
  link.click()
}

const copy = async (text) => {
  if (navigator.clipboard && window.isSecureContext) { await navigator.clipboard.writeText(text); return }
  const area = document.createElement("textarea")
  area.value = text
  document.body.append(area)
  area.select()
  document.execCommand("copy")
  area.remove()
}

export function render({model, el}) {
  const box = root(el, STYLE, "result")
  const left = node("div")
  const player = node("div", "player")
  const actions = node("div", "actions")
  box.append(left, player, actions)
  const whole = node("dialog")
  el.append(whole)
  let timer = null

  const enlarge = (src, label) => {
    const image = picture(src, label)
    image.title = "Click to close"
    image.addEventListener("click", () => whole.close())
    const foot = node("div", "foot")
    foot.append(node("span", "", label), press("Save as PNG", "Save this picture at print size", () => save(image, label)))
    whole.replaceChildren(image, foot)
    whole.showModal()
  }
  whole.addEventListener("click", (event) => { if (event.target === whole) whole.close() })

  const drawImages = () => {
    const samples = model.samples
    if (!samples.length) { left.replaceChildren(); return }
    const rows = ROWS.filter(([key]) => samples[0][key])
    const grid = node("div", "grid")
    const side = samples.length === 1 ? 108 : 72
    grid.style.setProperty("--side", `${side}px`)
    grid.style.gridTemplateColumns = `68px repeat(${samples.length}, ${side}px)`
    grid.append(node("span", "row-name", samples.length > 1 ? "Sample" : ""))
    samples.forEach((sample, index) => {
      const head = press(String(index + 1), `Sample ${index + 1}`, () => model.send_msg({sample: index}))
      head.className = "sample"
      head.title = `${sample.title}: show its steps and its path`
      head.setAttribute("aria-pressed", String(index === model.active))
      if (samples.length === 1) head.style.visibility = "hidden"
      grid.append(head)
    })
    for (const [key, label] of rows) {
      grid.append(node("span", "row-name", label))
      for (const sample of samples) {
        const text = `${label}, ${sample.title}`
        const image = picture(sample[key], text)
        image.title = "Click to enlarge"
        image.addEventListener("click", () => enlarge(sample[key], text))
        grid.append(image)
      }
    }
    const seeds = node("div", "seeds")
    seeds.setAttribute("role", "group")
    seeds.setAttribute("aria-label", "Samples side by side")
    seeds.append(grid)
    left.replaceChildren(seeds)
  }

  const markActive = () => left.querySelectorAll(".sample").forEach(
    (head, index) => head.setAttribute("aria-pressed", String(index === model.active)))

  let frame, inset, note, play, buttons = [], speed = 1
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

  const stop = () => {
    clearInterval(timer)
    timer = null
    if (play) { play.textContent = "▶"; play.setAttribute("aria-label", "Play the steps"); play.title = "Play the steps" }
  }
  const start = () => {
    let next = model.step >= model.steps.length - 1 ? 0 : model.step + 1
    clearInterval(timer)
    timer = setInterval(() => {
      go(next)
      next += 1
      if (next >= model.steps.length) stop()
    }, FRAME_MS / speed)
    play.textContent = "❚❚"
    play.setAttribute("aria-label", "Pause")
    play.title = "Pause"
  }

  const speedChoice = () => {
    const label = node("label", "", "Speed")
    const select = node("select")
    for (const value of [0.25, 0.5, 1, 2, 4]) {
      const option = node("option", "", `${value}×`)
      option.value = String(value)
      option.selected = value === speed
      select.append(option)
    }
    select.addEventListener("change", () => { speed = Number(select.value); if (timer) start() })
    label.append(select)
    return label
  }

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
    play = press("▶", "Play the steps", () => timer ? stop() : start())
    bar.append(
      press("‹", "Previous step", () => { stop(); go(Math.max(0, model.step - 1)) }), play,
      press("›", "Next step", () => { stop(); go(Math.min(model.steps.length - 1, model.step + 1)) }), speedChoice())
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

  const drawActions = () => {
    const copier = (label, help, key) => {
      const button = press(label, help, async () => {
        await copy(model[key])
        button.textContent = "Copied"
        setTimeout(() => { button.textContent = label }, 1500)
      })
      return button
    }
    actions.replaceChildren()
    if (model.recipe) actions.append(copier("Copy recipe", "Copy the recipe as JSON", "recipe"))
    if (model.command) actions.append(copier("Copy command", "Copy as a command line: diffviews generate …", "command"))
  }

  model.on("samples", drawImages)
  model.on("active", markActive)
  model.on("steps", drawSteps)
  for (const name of ["recipe", "command"]) model.on(name, drawActions)
  model.on("remove", stop)
  drawImages()
  drawSteps()
  drawActions()
}
