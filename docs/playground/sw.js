// Keeps the page for times without a network, and lets it use threads: these need two headers that a plain host does not send.
const KEPT = "VERSION"; // the build writes the digest of all files here
// What the page may load and whom it may ask; index.html says the same where there is no service worker.
const POLICY = ["default-src 'self'", "script-src 'self' 'wasm-unsafe-eval'", "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data: blob:", "worker-src 'self' blob:", "object-src 'none'", "base-uri 'none'", "form-action 'self'"].join("; ");
const HEADERS = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp",
  "Content-Security-Policy": POLICY };

const scope = /** @type {any} */ (self);
// A new version waits until no tab has the old one, whose files belong together.
scope.addEventListener("activate", (/** @type {any} */ event) => event.waitUntil((async () => {
  const old = (await caches.keys()).filter(name => name.startsWith("p2p-") && name !== KEPT);
  await Promise.all(old.map(name => caches.delete(name)));
  await scope.clients.claim();
})()));

/** @param {Request} request @param {(work: Promise<void>) => void} keep goes on after the answer */
async function answered(request, keep) {
  const cache = await caches.open(KEPT), name = request.url.replace(/\/index\.html(?=$|[?#])/, "/"); // two names of the page
  const found = await cache.match(name, { ignoreSearch: true });
  if (found) return found;
  const fresh = await fetch(request, { cache: "no-cache" }); // the browser may still have files of an older version
  if (!fresh.ok) return fresh;
  const headers = new Headers(fresh.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  const answer = new Response(fresh.body, { status: fresh.status, statusText: fresh.statusText, headers });
  keep(cache.put(name, answer.clone()).catch(() => {})); // a full disk is no reason to stop
  return answer;
}

scope.addEventListener("fetch", (/** @type {any} */ event) => {
  const isOurs = event.request.method === "GET" && event.request.url.startsWith(scope.registration.scope);
  if (isOurs) event.respondWith(answered(event.request, (/** @type {Promise<void>} */ work) => event.waitUntil(work)));
});
