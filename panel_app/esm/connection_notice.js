// Says so when the server no longer answers: a page without one looks alive and does nothing.
export function render({model, view}) {
  const show = () => {
    if (document.getElementById("connection-notice")) return
    const notice = dv.told(dv.node("div"), {role: "alert"})
    notice.id = "connection-notice"
    notice.style.cssText =
      "position:fixed;z-index:2000;width:max-content;max-width:calc(100vw - 48px);box-sizing:border-box;" +
      "left:50%;bottom:24px;transform:translateX(-50%);display:flex;gap:16px;" +
      "align-items:center;padding:10px 10px 10px 18px;border-radius:8px;font:14px Roboto,Inter,Arial,sans-serif;" +
      "background:#33373d;color:#fff;box-shadow:0 4px 16px #0006"
    const reload = dv.node("button", "", "Load the page again")
    reload.style.cssText =
      "flex:none;font:inherit;font-weight:500;color:inherit;background:#fff2;border:0;border-radius:6px;padding:8px 12px;cursor:pointer"
    reload.onclick = () => window.location.reload()
    notice.append(dv.node("span", "", model.text), reload)
    document.body.append(notice)
  }
  view.model.document.on_event("connection_lost", show)
}
