// The service worker keeps the page for times without a network, and its headers allow threads. All works without it, too.

const PATIENCE = 4000; // ms: where a browser forbids service workers it may not say so

let isUsed = false; // whether someone has begun: to load the page again would undo it
for (const kind of ["input", "change", "click"]) addEventListener(kind, () => { isUsed = true; }, { capture: true, once: true });

/** Waits until it answers for this page; the first time the page is loaded again for that. */
export async function keepOffline() {
  if (!("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register("sw.js");
    const ready = await Promise.race([navigator.serviceWorker.ready, new Promise(resolve => setTimeout(resolve, PATIENCE))]);
    const answers = self.crossOriginIsolated && navigator.serviceWorker.controller; // a host may send the headers itself
    if (!ready || answers || isUsed || sessionStorage.getItem("reloaded")) return;
    sessionStorage.setItem("reloaded", "once");
  } catch {
    return; // private windows have none
  }
  location.reload();
  await new Promise(() => {});
}
