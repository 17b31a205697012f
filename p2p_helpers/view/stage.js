// The stage of the studio: boxes over a picture, which are dragged, resized and moved by keys. stage.py says what the model holds.
const SMALLEST = 0.2, LARGEST = 3, STEP = 0.05;
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const round = (x, step) => +(Math.round(x / step) * step).toFixed(4);
const share = x => `${100 * x}%`;
const signed = x => ({ '-1': '−', 1: '+' }[Math.sign(x)] ?? '') + Math.abs(x).toFixed(2);
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function made(tag, className, more = {}) {
  const element = Object.assign(document.createElement(tag), { className });
  for (const [name, value] of Object.entries(more)) name in element ? element[name] = value : element.setAttribute(name, value);
  return element;
}

function render({ model, el }) {
  const root = made('div', 'p2p-stage');
  const figure = made('figure', ''), frame = made('div', 'p2p-frame'), picture = made('img', 'p2p-picture', { draggable: false });
  const caption = made('figcaption', ''), hint = made('p', 'p2p-hint', { id: `hint-${model.model_id ?? Math.random()}` });
  const words = made('div', 'p2p-words', { role: 'group', 'aria-label': 'objects of the picture' });
  const tools = made('div', 'p2p-tools', { role: 'group', 'aria-label': 'the chosen object' });
  const said = made('output', 'p2p-said', { 'aria-live': 'polite' });
  const buttons = Object.fromEntries(['Duplicate', 'Remove', 'Put back'].map(name => [name, made('button', '', { type: 'button', textContent: name })]));
  figure.append(frame, caption);
  tools.append(...Object.values(buttons));
  root.append(figure, hint, words, tools, said);
  el.replaceChildren(root);

  let chosen = null, items = [];  // an item is an object with its elements on the page
  const find = phrase => items.find(item => same(item.phrase, phrase));
  const place = item => model.get('places').find(p => same(p.phrase, item.phrase)) ?? { phrase: item.phrase, kind: 'move', dx: 0, dy: 0, scale: 1 };
  const nothing = p => p.kind === 'move' && !p.dx && !p.dy && p.scale === 1;

  // Where an object goes: by whole cells, its middle in the picture, its foot where it is resized.
  function put(item, change, keep = true) {
    const [rows, columns] = model.get('grid'), [left, top, right, bottom] = item.box;
    const next = { ...place(item), ...change }, middle = bottom - next.scale * (bottom - top) / 2;
    next.scale = clamp(round(next.scale, STEP), SMALLEST, LARGEST);
    next.dx = round(clamp(next.dx, -(left + right) / 2, 1 - (left + right) / 2), 1 / columns);
    next.dy = round(clamp(next.dy, -middle, 1 - middle), 1 / rows);
    if (next.kind === 'duplicate' && !next.dx && !next.dy) next.dx = round((left + right) / 2 < 0.5 ? right - left : left - right, 1 / columns);
    const others = model.get('places').filter(p => !same(p.phrase, item.phrase));
    model.set('places', nothing(next) ? others : [...others, next]);
    if (keep) model.save_changes();
    draw();
  }
  function choose(item) {
    chosen = item;
    draw();
  }

  function drag(item, event, corner) {
    event.preventDefault();
    choose(item);
    item.handle.focus({ preventScroll: true });
    const target = event.currentTarget, size = frame.getBoundingClientRect(), start = place(item), [left, , right, bottom] = item.box;
    const foot = [(left + right) / 2 + start.dx, bottom + start.dy];
    const at = e => [(e.clientX - size.left) / size.width, (e.clientY - size.top) / size.height];
    const far = e => Math.hypot((at(e)[0] - foot[0]) * size.width, (at(e)[1] - foot[1]) * size.height);
    if (start.kind === 'remove') return;
    const begun = at(event), distance = Math.max(far(event), 1);
    target.setPointerCapture(event.pointerId);
    target.onpointermove = e => {
      if (corner) put(item, { scale: start.scale * far(e) / distance }, false);
      else put(item, { dx: start.dx + at(e)[0] - begun[0], dy: start.dy + at(e)[1] - begun[1] }, false);
    };
    target.onpointerup = target.onpointercancel = () => {
      target.onpointermove = target.onpointerup = target.onpointercancel = null;
      model.save_changes();
    };
  }
  function press(item, event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;  // the browser's own
    const [rows, columns] = model.get('grid'), now = place(item), cells = event.shiftKey ? 4 : 1;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (steps && now.kind !== 'remove') put(item, { dx: now.dx + cells * steps[0] / columns, dy: now.dy + cells * steps[1] / rows });
    else if (now.kind === 'remove' && '+=-−_'.includes(event.key)) return;
    else if ('+='.includes(event.key)) put(item, { scale: now.scale + STEP });
    else if ('-−_'.includes(event.key)) put(item, { scale: now.scale - STEP });
    else if (event.key === 'Escape') buttons['Put back'].click();
    else if (event.key === 'Delete') buttons.Remove.click();
    else return;
    event.preventDefault();
    event.stopPropagation();  // a notebook has plans for these keys
  }

  buttons.Duplicate.onclick = () => put(chosen, place(chosen).kind === 'duplicate' ? { kind: 'move' } : { kind: 'duplicate' });
  buttons.Remove.onclick = () => {
    if (chosen.replaces) said.textContent = `“${chosen.name}” takes the place of “${chosen.replaces}”. To remove it, make the target the same as the source.`;
    else put(chosen, place(chosen).kind === 'remove' ? { kind: 'move' } : { kind: 'remove', dx: 0, dy: 0, scale: 1 });
  };
  buttons['Put back'].onclick = () => put(chosen, { kind: 'move', dx: 0, dy: 0, scale: 1 });

  // Other objects than before: their elements are made anew.
  function build() {
    const before = chosen?.phrase;
    items = model.get('objects').map(object => {
      const item = { ...object, title: object.replaces ? `${object.replaces} → ${object.name}` : object.name };
      item.behind = made('img', 'p2p-behind', { src: object.behind, alt: '', draggable: false });
      item.cutout = made('img', 'p2p-cutout', { src: object.cutout, alt: '', draggable: false });
      item.second = item.cutout.cloneNode();  // what stays where it was, if it is duplicated
      item.handle = made('div', 'p2p-box', { tabIndex: 0, role: 'application', 'aria-roledescription': 'object that can be moved', 'aria-describedby': hint.id });
      item.handle.setAttribute('aria-label', `${object.name}: arrow keys move it, plus and minus resize it`);
      for (const name of ['nw', 'ne', 'sw', 'se']) {
        const corner = made('span', `p2p-corner p2p-${name}`);
        corner.onpointerdown = event => { event.stopPropagation(); drag(item, event, true) };
        item.handle.append(corner);
      }
      item.handle.onpointerdown = event => drag(item, event, false);
      item.handle.onkeydown = event => press(item, event);
      item.handle.onfocus = () => choose(item);
      item.chip = made('button', '', { type: 'button', textContent: item.title });
      item.chip.onclick = () => { choose(item); item.handle.focus({ preventScroll: true }) };
      const [left, top, right, bottom] = object.box;
      item.area = (right - left) * (bottom - top);
      item.cutout.style.transformOrigin = `${share((left + right) / 2)} ${share(bottom)}`;
      return item;
    });
    const large = [...items].sort((a, b) => b.area - a.area);  // small ones lie above, where a pointer finds them
    frame.replaceChildren(picture, ...items.map(i => i.behind), ...items.flatMap(i => [i.second, i.cutout]), ...large.map(i => i.handle));
    words.replaceChildren(...items.map(item => item.chip));
    chosen = find(before) ?? (items.length === 1 ? items[0] : null);
    draw();
  }

  function draw() {
    const url = model.get('picture');
    if (picture.src !== url) url ? picture.src = url : picture.removeAttribute('src');
    picture.alt = caption.textContent = model.get('caption');
    frame.classList.toggle('p2p-empty', !url);
    for (const item of items) {
      const { kind, dx, dy, scale } = place(item), [left, top, right, bottom] = item.box, gone = kind === 'remove';
      const moved = gone || dx !== 0 || dy !== 0 || scale !== 1;
      item.behind.hidden = item.cutout.hidden = !moved;
      item.cutout.hidden ||= gone;
      item.second.hidden = kind !== 'duplicate';
      item.cutout.style.transform = `translate(${share(dx)}, ${share(dy)}) scale(${scale})`;
      const wide = (right - left) * scale, high = (bottom - top) * scale, x = (left + right) / 2 + dx, y = bottom + dy;
      Object.assign(item.handle.style, { left: share(x - wide / 2), top: share(y - high), width: share(wide), height: share(high) });
      item.handle.classList.toggle('p2p-chosen', item === chosen);
      item.handle.classList.toggle('p2p-gone', gone);
      item.chip.setAttribute('aria-pressed', item === chosen);
      item.chip.classList.toggle('p2p-changed', moved);
    }
    const name = chosen?.name;
    hint.hidden = words.hidden = !items.length;
    tools.hidden = said.hidden = !chosen;
    hint.textContent = chosen && place(chosen).kind === 'remove' ? `Press Edit, and the ${name} is gone.` : chosen
      ? `Drag the ${name}, or pull a corner to resize it (keys: arrows, + and −). Then press Edit.`
      : 'To move something, choose it here or in the picture:';
    if (!chosen) return;
    const { kind, dx, dy, scale } = place(chosen);
    const numbers = `dx ${signed(dx)} · dy ${signed(dy)} · scale ${scale.toFixed(2)}`;
    said.textContent = kind === 'remove' ? `${name}: removed` : `${kind === 'duplicate' ? `a second ${name}` : name}: ${numbers}`;
    buttons.Duplicate.setAttribute('aria-pressed', kind === 'duplicate');
    buttons.Remove.setAttribute('aria-pressed', kind === 'remove');
    buttons.Remove.setAttribute('aria-disabled', !!chosen.replaces);
    buttons['Put back'].disabled = nothing(place(chosen));
  }

  const watched = { 'change:objects': build, 'change:places': draw, 'change:picture': draw, 'change:caption': draw };
  for (const [event, act] of Object.entries(watched)) model.on(event, act);
  build();
  return () => { for (const [event, act] of Object.entries(watched)) model.off(event, act) };
}

export default { render };
