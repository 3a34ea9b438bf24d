// The status page asks for a snapshot every two seconds and writes it down. Whatever comes from the gateway is set as
// text, never as markup.

const words = JSON.parse(document.getElementById('verdict').dataset.texts);
const t = (key) => words[key] ?? key;
const lang = document.documentElement.lang;
const number = new Intl.NumberFormat(lang, { maximumFractionDigits: 1 });
const at = (id) => document.getElementById(id);

function element(name, text, className) {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  if (className) e.className = className;
  return e;
}

const signals = { ok: ['ok', '✓'], up: ['ok', '✓'], pass: ['ok', '✓'], degraded: ['warn', '!'], warn: ['warn', '!'], down: ['fail', '✕'], fail: ['fail', '✕'] };
const signal = (state) => signals[state] ?? ['none', '?'];

function signalled(state, text) {
  const [name, sign] = signal(state);
  const outer = element('span', undefined, name);
  outer.append(element('span', `${sign} ${text}`, 'signal'));
  return outer;
}

const ms = (v) => (v > 0 ? `${number.format(Math.round(v))} ms` : '');
const clock = (time) => new Date(time).toLocaleTimeString(lang);
const day = (time) => new Date(time).toLocaleDateString(lang);

function age(ns) {
  const s = Math.floor(ns / 1e9);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  return `${number.format(Math.floor(s / 360) / 10)} h`;
}

function rate(bits) {
  if (bits >= 1e6) return `${number.format(bits / 1e6)} Mbit/s`;
  return `${number.format(Math.round(bits / 1e3))} kbit/s`;
}

function list(id, items, row) {
  const ul = at(id);
  ul.replaceChildren(...(items ?? []).map((item) => {
    const li = element('li');
    li.append(...row(item));
    return li;
  }));
  if (!ul.children.length) ul.append(element('li', t('status.none'), 'small'));
}

function pairs(id, rows) {
  at(id).replaceChildren(...rows.flatMap(([name, value]) => [element('dt', name), element('dd', value)]));
}

function table(id, heads, rows) {
  const head = element('tr');
  head.append(...heads.map(([text, className]) => element('th', text, className)));
  const body = rows.map((cells) => {
    const tr = element('tr');
    cells.forEach((cell, i) => {
      const td = element('td', undefined, heads[i][1]);
      td.append(cell);
      tr.append(td);
    });
    return tr;
  });
  if (!body.length) {
    const tr = element('tr');
    const td = element('td', t('status.none'), 'small');
    td.colSpan = heads.length;
    tr.append(td);
    body.push(tr);
  }
  const thead = element('thead');
  thead.append(head);
  const tbody = element('tbody');
  tbody.append(...body);
  at(id).replaceChildren(thead, tbody);
}

// Traffic of the last five minutes, from the differences of two snapshots.
const history = [];
let last;

function traffic(s) {
  const now = { time: Date.parse(s.time), up: s.counts.bytes_up, down: s.counts.bytes_down };
  if (last && now.time > last.time) {
    const seconds = (now.time - last.time) / 1000;
    history.push({ up: Math.max(0, now.up - last.up) * 8 / seconds, down: Math.max(0, now.down - last.down) * 8 / seconds });
    if (history.length > 150) history.shift();
  }
  last = now;
  const current = history.at(-1) ?? { up: 0, down: 0 };
  const text = `${t('status.traffic')}: ${rate(current.up)} ${t('status.up')}, ${rate(current.down)} ${t('status.down')}`;
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 150 40');
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('class', 'chart');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', text);
  const top = Math.max(1000, ...history.map((h) => Math.max(h.up, h.down)));
  for (const direction of ['up', 'down']) {
    const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
    path.setAttribute('class', direction);
    path.setAttribute('d', history.map((h, i) => `${i ? 'L' : 'M'}${150 - history.length + i} ${39 - 38 * h[direction] / top}`).join(''));
    svg.append(path);
  }
  at('traffic').replaceChildren(svg, element('p', text, 'small'));
}

function show(s) {
  const [name] = signal(s.verdict);
  at('verdict').className = `panel verdict ${name}`;
  if (at('sentence').textContent !== s.sentence) at('sentence').textContent = s.sentence;
  at('advice').hidden = !s.advice;
  at('advice').textContent = s.advice ?? '';
  at('facts').textContent = `${s.name} · hafen ${s.version} · ${t('status.uptime')} ${age(s.uptime_ns)} · ${clock(s.time)}`;
  const c = s.counts;
  pairs('counts', [[t('status.allocations'), c.allocations], [t('status.websockets'), c.websockets], [t('status.longpolls'), c.longpolls],
    [t('status.tunnels'), c.tunnels], [t('status.connections'), c.connections]]);
  traffic(s);
  const rows = (s.services ?? []).flatMap((svc) => (svc.regions ?? []).map((r) => [
    signalled(r.up ? 'up' : 'down', r.name), r.rung, ms(r.rtt_ms),
    r.name === svc.chosen ? t('status.nearest') : (r.rungs ?? []).filter((g) => g.why).map((g) => `${g.name}: ${g.why}`).join('; ')]));
  table('regions', [[t('status.region')], [t('status.rung')], [t('status.rtt'), 'n'], [t('status.why')]], rows);
  list('servers', s.call_servers, (x) => [signalled(x.state, x.host), element('span', ` ${x.probe} ${ms(x.rtt_ms)} ${x.why ?? ''}`, 'small')]);
  list('certificates', s.certificates, (x) => [element('strong', (x.names ?? []).join(', ')), element('span', ` ${t('status.until')} ${day(x.expires)} · ${x.source}`, 'small')]);
  pairs('limits', (s.limits ?? []).map((x) => [x.key, `${number.format(x.used)} / ${number.format(x.max)}`]));
  list('refused', s.refused, (x) => [element('strong', `${x.network} × ${number.format(x.count)}`), element('p', x.write, 'small code')]);
  list('events', s.events, (x) => [element('span', `${clock(x.time)} ${x.sentence}`), element('p', x.advice ?? '', 'small')]);
  list('runs', s.precall_runs, (x) => [signalled(x.verdict, x.code), element('span', ` ${clock(x.time)} ${x.cause ?? ''}`, 'small')]);
  table('sessions', [[t('status.kind')], [t('status.client')], [t('status.region')], [t('status.rung')], [t('status.queue'), 'n'], [t('status.dropped'), 'n'], [t('status.age'), 'n']],
    (s.sessions ?? []).map((x) => [x.kind, x.client, x.region ?? '', x.rung ?? '', ms(x.queue_ms), String(x.dropped), age(x.age_ns)]));
}

async function refresh() {
  try {
    const res = await fetch('/status/api/snapshot', { cache: 'no-store' });
    if (res.status === 401) { location.reload(); return; }
    if (!res.ok) throw new Error(res.statusText);
    show(await res.json());
    at('lost').hidden = true;
  } catch {
    at('lost').hidden = false;
  }
  setTimeout(refresh, 2000);
}

refresh();
