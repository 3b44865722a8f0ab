// Keeps the window's address at the view on show; replaces it, so that "back" leaves the page as one expects.
export function render({model}) {
  const write = () => {
    if (!model.search) return
    const address = new URL(window.location.href)
    const wanted = new URLSearchParams(model.search)
    for (const key of model.keys) {
      if (wanted.has(key)) address.searchParams.set(key, wanted.get(key))
      else address.searchParams.delete(key)
    }
    window.history.replaceState(window.history.state, "", address)
  }
  model.on("search", write)
  write()
}
