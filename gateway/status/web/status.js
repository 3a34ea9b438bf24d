// The status page is told a snapshot every two seconds and writes it down. Whatever comes from the gateway is set as text, never as
// markup.

import { Chart, bar, strip } from './chart.js';

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

const signals = {
  ok: ['ok', '✓'], up: ['ok', '✓'], pass: ['ok', '✓'], degraded: ['warn', '!'], warn: ['warn', '!'], warning: ['warn', '!'],
  down: ['fail', '✕'], fail: ['fail', '✕'], critical: ['fail', '✕'],
};
const signal = (state) => signals[state] ?? ['none', '?'];

function signalled(state, text) {
  const [name, sign] = signal(state);
  const outer = element('span', undefined, name);
  outer.append(element('span', `${sign} ${text}`, 'signal'));
  return outer;
}

const ms = (v) => (v > 0 ? `${number.format(v < 10 ? v : Math.round(v))} ms` : '');
const clock = (time) => new Date(time).toLocaleTimeString(lang);
const moment = (time) => new Date(time).toLocaleString(lang, { dateStyle: 'short', timeStyle: 'medium' });
const day = (time) => new Date(time).toLocaleDateString(lang);

function age(ns) {
  const s = Math.floor(ns / 1e9);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 48 * 3600) return `${number.format(Math.floor(s / 360) / 10)} h`;
  return `${number.format(Math.floor(s / 86400))} ${t('status.daysword')}`;
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
  head.append(...heads.map(([text, className]) => {
    const th = element('th', text, className);
    th.scope = 'col';
    return th;
  }));
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

// The last five minutes: the gateway tells them when the page opens, and from then on a sample is made of each snapshot.
let samples = [];
let last;
const most = 150;

function sample(s) {
  const seconds = last ? (Date.parse(s.time) - Date.parse(last.time)) / 1000 : 0;
  const bits = (key) => (seconds > 0 ? Math.max(0, s.counts[key] - last.counts[key]) * 8 / seconds : 0);
  const p = {
    time: Date.parse(s.time), up: bits('bytes_up'), down: bits('bytes_down'), allocations: s.counts.allocations, websockets: s.counts.websockets,
    longpolls: s.counts.longpolls, tunnels: s.counts.tunnels, queue_ms: Math.max(0, ...(s.sessions ?? []).map((x) => x.queue_ms)), rtt: {}, rungs: {},
  };
  for (const svc of s.services ?? []) {
    for (const r of svc.regions ?? []) {
      if (r.up) p.rtt[`${svc.name}/${r.name}`] = r.rtt_ms;
      for (const g of r.rungs ?? []) p.rungs[`${svc.name}/${r.name}/${g.name}`] = g.state;
    }
  }
  last = s;
  const newest = samples.at(-1);
  if (newest && p.time <= newest.time) return; // the history had it already
  samples.push(p);
  if (samples.length > most) samples.shift();
}

const chartWords = { now: t('status.nowword'), at: t('status.at'), most: t('status.most'), minutes: t('status.minutes') };
const charts = {
  traffic: new Chart(at('chart-traffic'), t('status.traffic'), rate, chartWords),
  sessions: new Chart(at('chart-sessions'), t('status.allocations'), (v) => number.format(v), chartWords),
  rtt: new Chart(at('chart-rtt'), t('status.rtt'), (v) => `${number.format(v)} ms`, chartWords),
  queue: new Chart(at('chart-queue'), t('status.queue'), (v) => `${number.format(v)} ms`, chartWords),
};
charts.traffic.least = 1000;

function drawCharts(s) {
  const times = samples.map((p) => p.time);
  const series = (name, key, i) => ({ name, className: `c${i}`, values: samples.map((p) => p[key]) });
  charts.traffic.update(times, [series(t('status.up'), 'up', 0), series(t('status.down'), 'down', 1)]);
  charts.sessions.update(times, [series(t('status.allocations'), 'allocations', 0), series(t('status.websockets'), 'websockets', 1),
    series(t('status.longpolls'), 'longpolls', 2), series(t('status.tunnels'), 'tunnels', 4)]);
  charts.queue.update(times, [series(t('status.longest'), 'queue_ms', 0)]);
  const services = s.services ?? [];
  const regions = services.flatMap((svc) => (svc.regions ?? []).map((r) => [`${svc.name}/${r.name}`, services.length > 1 ? `${svc.name}/${r.name}` : r.name]));
  charts.rtt.update(times, regions.map(([key, name], i) => ({ name, className: `c${i % 5}`, values: samples.map((p) => p.rtt?.[key] ?? null) })));
}

function showRegions(s) {
  const rows = (s.services ?? []).flatMap((svc) => (svc.regions ?? []).flatMap((r) => (r.rungs?.length ? r.rungs : [{ name: '', state: 'unknown' }]).map((g, i) => {
    const states = samples.map((p) => p.rungs?.[`${svc.name}/${r.name}/${g.name}`] ?? 'unknown');
    const down = states.filter((x) => x === 'down').length;
    const name = i ? '' : signalled(r.up ? 'up' : r.use ? 'down' : 'unknown', `${svc.name}/${r.name}${r.name === svc.chosen ? ` · ${t('status.nearest')}` : ''}`);
    return [name, signalled(g.state, g.name), ms(g.rtt_ms), strip(states, `${g.name}: ${t('status.downfor')} ${down * 2} s`), g.why ?? ''];
  })));
  table('regions', [[t('status.region')], [t('status.rung')], [t('status.rtt'), 'n'], [t('status.history')], [t('status.why')]], rows);
}

function showFaults(s) {
  const faults = s.faults ?? [];
  at('faults').hidden = faults.length < 2 && !faults[0]?.works;
  list('faultlist', faults, (f) => {
    const parts = [signalled(f.level, f.sentence)];
    if (f.advice) parts.push(element('p', f.advice));
    parts.push(element('p', [f.works, `${t('status.manual')}: ${f.manual}`].filter(Boolean).join(' '), 'small'));
    return parts;
  });
}

function showSites(s) {
  const sites = s.sites ?? [];
  at('sitecard').hidden = !sites.length;
  const n = (v) => number.format(v);
  table('sites', [[t('status.site')], [t('status.clients'), 'n'], [t('status.fetched'), 'n'], [t('status.through'), 'n'], [t('status.direct'), 'n'],
    [t('status.failed'), 'n']], sites.map((x) => [x.name, n(x.clients), n(x.fetched), n(x.through), n(x.direct), n(x.failed)]));
}

function showLimits(s) {
  list('limits', s.limits, (x) => {
    const share = x.max > 0 ? x.used / x.max : 0;
    const state = share >= 1 || x.refused ? 'fail' : share >= 0.8 ? 'warn' : 'ok';
    const parts = [element('span', `${x.key} `), element('strong', `${number.format(x.used)} / ${number.format(x.max)}`), bar(share, state)];
    if (x.refused) parts.push(signalled('fail', `${number.format(x.refused)} ${t('status.refusedminute')}`));
    return parts;
  });
}

function show(s) {
  sample(s);
  const [name] = signal(s.verdict);
  at('verdict').className = `panel verdict ${name}`;
  if (at('sentence').textContent !== s.sentence) at('sentence').textContent = s.sentence;
  at('advice').hidden = !s.advice;
  if (at('advice').textContent !== (s.advice ?? '')) at('advice').textContent = s.advice ?? '';
  at('facts').textContent = `${s.name} · hafen ${s.version} · ${t('status.uptime')} ${age(s.uptime_ns)} · ${clock(s.time)}`;
  showFaults(s);
  const c = s.counts;
  const newest = samples.at(-1) ?? { up: 0, down: 0 };
  pairs('counts', [[t('status.allocations'), number.format(c.allocations)], [t('status.websockets'), number.format(c.websockets)], [t('status.longpolls'), number.format(c.longpolls)],
    [t('status.tunnels'), number.format(c.tunnels)], [t('status.connections'), number.format(c.connections)],
    [`${t('status.traffic')} ${t('status.up')}`, rate(newest.up)], [`${t('status.traffic')} ${t('status.down')}`, rate(newest.down)]]);
  drawCharts(s);
  showRegions(s);
  list('servers', s.call_servers, (x) => [signalled(x.state, x.host), element('span', ` ${x.probe} ${ms(x.rtt_ms)} ${x.why ?? ''}`, 'small')]);
  list('certificates', s.certificates, (x) => {
    const parts = [element('strong', (x.names ?? []).join(', ')), element('span', ` ${t('status.until')} ${day(x.expires)} · ${x.source}`, 'small')];
    if (x.problem) parts.push(element('p', x.problem, 'small'));
    return parts;
  });
  list('selftests', s.self_tests, (x) => [signalled(x.state === 'skipped' ? 'unknown' : x.state, x.sentence), element('p', x.advice ?? '', 'small')]);
  showLimits(s);
  list('refused', s.refused, (x) => [element('strong', `${x.network} × ${number.format(x.count)}`), element('span', ` ${t('status.last')} ${clock(x.last)}`, 'small'), element('p', x.write, 'small code')]);
  list('events', s.events, (x) => [element('span', `${moment(x.time)} `, 'small'), element('strong', x.about ? `${x.about} ` : ''), element('span', x.sentence), element('p', x.advice ?? '', 'small')]);
  list('runs', s.precall_runs, (x) => [signalled(x.verdict, x.code), element('span', ` ${clock(x.time)} ${x.cause ?? ''}`, 'small')]);
  showSites(s);
  if (at('draincard')) at('draincard').hidden = s.draining;
  table('sessions', [[t('status.kind')], [t('status.client')], [t('status.region')], [t('status.rung')], [t('status.rtt'), 'n'], [t('status.queue'), 'n'], [t('status.dropped'), 'n'], [t('status.age'), 'n']],
    (s.sessions ?? []).map((x) => [x.kind, x.client, x.region ?? x.target ?? '', x.rung ?? '', ms(x.rtt_ms), ms(x.queue_ms), number.format(x.dropped), age(x.age_ns)]));
}

// Asking at intervals is for when there is no stream: too many pages are open, or something on the way holds it back.
async function ask() {
  try {
    const res = await fetch('/status/api/snapshot?lang=' + lang, { cache: 'no-store' });
    if (res.status === 401) { location.reload(); return; }
    if (!res.ok) throw new Error(res.statusText);
    show(await res.json());
    at('lost').hidden = true;
  } catch {
    at('lost').hidden = false;
  }
}

let heard = Date.now();

function listen() {
  const stream = new EventSource('/status/api/live?lang=' + lang);
  stream.addEventListener('history', (e) => { samples = JSON.parse(e.data) ?? []; heard = Date.now(); });
  stream.addEventListener('snapshot', (e) => { show(JSON.parse(e.data)); heard = Date.now(); at('lost').hidden = true; });
  stream.addEventListener('over', () => location.reload());
  stream.addEventListener('error', () => {
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 10000); // refused; else the browser tries by itself
  });
}

listen();
setInterval(() => { if (Date.now() - heard > 6000) ask(); }, 2000);
