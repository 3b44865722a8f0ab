export function render({model}) {
  model.on("msg:custom", ({name, kind, content}) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))
    const address = URL.createObjectURL(new Blob([bytes], {type: kind}))
    const anchor = document.createElement("a")
    anchor.href = address
    anchor.download = name
    anchor.click()
    setTimeout(() => URL.revokeObjectURL(address), 60000)
  })
}
