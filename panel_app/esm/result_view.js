const {node, told, press, picture, root, follow} = dv
const STYLE = `
.result { display: grid; grid-template-columns: minmax(0, max-content) minmax(262px, 1fr); gap: 8px 22px; align-items: start; }
figure { margin: 0; }
figcaption, .row-name { font-size: 12px; color: var(--dv-muted); }
img { border-radius: 6px; }
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
  const left = node("div"), player = node("div", "player"), actions = node("div", "actions"), whole = node("dialog")
  root(el, STYLE, "result").append(left, player, actions)
  el.append(whole)
  let timer = null

  const pressed = (image, title, action) => {
    image.title = title
    image.addEventListener("click", action)
    return image
  }
  const enlarge = (src, label) => {
    const image = pressed(picture(src, label), "Click to close", () => whole.close())
    const keep = press("Save as PNG", "Save this picture at print size", () => save(image, label))
    whole.replaceChildren(image, node("div", "foot", node("span", "", label), keep))
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
      const show = () => model.send_msg({sample: index}), help = `${sample.title}: show its steps and its path`
      const head = press(index + 1, `Sample ${index + 1}`, show, "sample", help)
      told(head, {pressed: index === model.active})
      if (samples.length === 1) head.style.visibility = "hidden"
      grid.append(head)
    })
    for (const [key, label] of rows) {
      grid.append(node("span", "row-name", label))
      for (const sample of samples) {
        const text = `${label}, ${sample.title}`
        grid.append(pressed(picture(sample[key], text), "Click to enlarge", () => enlarge(sample[key], text)))
      }
    }
    left.replaceChildren(told(node("div", "seeds", grid), {role: "group", label: "Samples side by side"}))
  }

  const markActive = () => left.querySelectorAll(".sample").forEach(
    (head, index) => told(head, {pressed: index === model.active}))

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
    buttons.forEach((button, other) => told(button, {pressed: other === index}))
    const film = buttons[index].parentNode
    film.scrollTo({left: buttons[index].offsetLeft - film.clientWidth / 2, behavior: "smooth"})
    if (tell) model.send_msg({step: index})
  }

  const name = (label, help) => Object.assign(play, {textContent: label, title: help, ariaLabel: help})
  const stop = () => {
    clearInterval(timer)
    timer = null
    if (play) name("▶", "Play the steps")
  }
  const start = () => {
    let next = model.step >= model.steps.length - 1 ? 0 : model.step + 1
    clearInterval(timer)
    timer = setInterval(() => {
      go(next)
      next += 1
      if (next >= model.steps.length) stop()
    }, FRAME_MS / speed)
    name("❚❚", "Pause")
  }

  const speedChoice = () => {
    const options = [0.25, 0.5, 1, 2, 4].map((value) => new Option(`${value}×`, value, false, value === speed))
    const select = node("select", "", ...options)
    select.addEventListener("change", () => { speed = Number(select.value); if (timer) start() })
    return node("label", "", "Speed", select)
  }

  const drawSteps = () => {
    stop()
    player.replaceChildren()
    if (!model.steps.length) return
    frame = pressed(picture("", "", "frame"), "Click to enlarge", () => enlarge(frame.src, frame.alt))
    inset = picture("", "The model's noisy input at this step", "inset")
    inset.title = "What the model was given at this step"
    const jump = (index) => { stop(); go(index) }
    play = press("▶", "Play the steps", () => timer ? stop() : start())
    const bar = node(
      "div", "bar", press("‹", "Previous step", () => jump(Math.max(0, model.step - 1))), play,
      press("›", "Next step", () => jump(Math.min(model.steps.length - 1, model.step + 1))), speedChoice())
    note = node("div", "note")
    buttons = model.steps.map((step, index) => {
      const button = told(node("button", "", picture(step.frame, ""), node("span", "", step.sigma)), {
        label: `Frame ${index + 1}, σ ${step.sigma}`})
      button.addEventListener("click", () => jump(index))
      return button
    })
    player.append(
      node("figure", "", node("figcaption", "", "Step by step"), node("div", "screen", frame, inset)),
      node("div", "side", node("figcaption", "", "\u00a0"), bar, note), node("div", "film", ...buttons))
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

  model.on("active", markActive)
  model.on("remove", stop)
  follow(model, ["samples"], drawImages)
  follow(model, ["steps"], drawSteps)
  follow(model, ["recipe", "command"], drawActions)
}
