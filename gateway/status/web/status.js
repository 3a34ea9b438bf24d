// The status page is told a snapshot every two seconds and writes it down. Whatever comes from the gateway is set as text, never as
// markup.

import { Chart, bar, strip } from './chart.js';

const words = JSON.parse(document.getElementById('verdict').dataset.texts);
const t = (key, values = {}) => (words[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? '');
const lang = document.documentElement.lang;
const locale = lang === 'en' ? 'en-GB' : lang; // the day before the month, and 24 hours
const number = new Intl.NumberFormat(locale, { maximumFractionDigits: 1 });
const at = (id) => document.getElementById(id);

function element(name, text, className) {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  if (className) e.className = className;
  return e;
}

// prose is a sentence; what stands between backticks in it is to be typed.
function prose(text) {
  return text.split('`').map((part, i) => (i % 2 ? element('code', part) : document.createTextNode(part)));
}

function paragraph(text, className) {
  const p = element('p', undefined, className);
  p.append(...prose(text));
  return p;
}

function span(text) {
  const e = element('span');
  e.append(...prose(text));
  return e;
}

// say changes a text only when it is another one: it is read aloud each time.
function say(id, text) {
  const e = at(id);
  if (e.dataset.said === text) return;
  e.dataset.said = text;
  e.hidden = !text;
  e.replaceChildren(...prose(text));
}

const signals = {
  ok: ['ok', '✓'], up: ['ok', '✓'], pass: ['ok', '✓'], degraded: ['warn', '!'], warn: ['warn', '!'], warning: ['warn', '!'],
  down: ['fail', '✕'], fail: ['fail', '✕'], critical: ['fail', '✕'],
};
const signal = (state) => signals[state] ?? ['none', '?'];

function signalled(state, text) {
  const [name, sign] = signal(state);
  const outer = element('span', undefined, name);
  const inner = element('span', `${sign} `, 'signal');
  inner.append(...prose(text));
  outer.append(inner);
  return outer;
}

const ms = (v) => (v > 0 ? `${number.format(v < 10 ? v : Math.round(v))} ms` : '');
const clock = (time) => new Date(time).toLocaleTimeString(locale);
const moment = (time) => new Date(time).toLocaleString(locale, { dateStyle: 'medium', timeStyle: 'medium' });
const day = (time) => new Date(time).toLocaleDateString(locale, { dateStyle: 'medium' });

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

// Lists are written anew only when something in them has changed: who marks a line to copy it, or stands on a link, is not disturbed.
const written = new Map();

function changed(id, content) {
  const now = JSON.stringify(content ?? null);
  if (written.get(id) === now) return false;
  written.set(id, now);
  return true;
}

function list(id, items, row) {
  if (!changed(id, items)) return;
  const ul = at(id);
  ul.replaceChildren(...(items ?? []).map((item) => {
    const li = element('li');
    li.append(...row(item));
    return li;
  }));
  if (!ul.children.length) ul.append(element('li', t('status.none'), 'small'));
}

function figures(id, rows) {
  at(id).replaceChildren(...rows.map(([name, value]) => {
    const div = element('div');
    div.append(element('dt', name), element('dd', value));
    return div;
  }));
}

function withRole(e, role) {
  e.setAttribute('role', role); // a telephone shows tables as blocks, and then browsers forget what they are
  return e;
}

function table(id, heads, rows) {
  const head = withRole(element('tr'), 'row');
  head.append(...heads.map(([text, className]) => withRole(element('th', text, className), 'columnheader')));
  const body = rows.map((cells) => {
    const tr = withRole(element('tr'), 'row');
    tr.append(...cells.map((cell, i) => {
      const td = withRole(element('td', undefined, i ? heads[i][1] : 'first'), 'cell');
      td.dataset.label = heads[i][0];
      if (cell !== '') td.append(cell);
      return td;
    }));
    return tr;
  });
  if (!body.length) {
    const td = withRole(element('td', t('status.none'), 'small'), 'cell');
    td.colSpan = heads.length;
    const tr = withRole(element('tr'), 'row');
    tr.append(td);
    body.push(tr);
  }
  const thead = withRole(element('thead'), 'rowgroup');
  thead.append(head);
  const tbody = withRole(element('tbody'), 'rowgroup');
  tbody.append(...body);
  withRole(at(id), 'table').replaceChildren(thead, tbody);
}

// The last five minutes: the gateway tells them when the page opens, and from then on a sample is made of each snapshot.
let samples = [];
let last;
const most = 150;

function sample(s) {
  const newest = samples.at(-1);
  if (newest && Date.parse(s.time) < newest.time + 1500) { // the history had it already, or it came because something went wrong
    last ??= s;
    return;
  }
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
  samples.push(p);
  if (samples.length > most) samples.shift();
}

const chartWords = { now: t('status.nowword'), at: t('status.at'), most: t('status.most'), minutes: t('status.minutes') };
const charts = {
  traffic: new Chart(at('chart-traffic'), t('status.traffic'), rate, chartWords),
  sessions: new Chart(at('chart-sessions'), t('status.sessionsnow'), (v) => number.format(v), chartWords),
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
    return [name, signalled(g.state, g.name), ms(g.rtt_ms), strip(states, `${g.name}: ${t('status.downfor')} ${down * 2} s`), g.why ? span(g.why) : ''];
  })));
  table('regions', [[t('status.region')], [t('status.rung')], [t('status.rtt'), 'n'], [t('status.history')], [t('status.why'), 'why']], rows);
}

const manual = (f) => [f.works, `${t('status.manual')}: \`${f.manual}\``].filter(Boolean).join(' ');

// The worst fault is the verdict; the list has the others.
function showFaults(s) {
  const [worst, ...others] = s.faults ?? [];
  say('sentence', s.sentence);
  say('advice', s.advice ?? '');
  say('works', worst ? manual(worst) : '');
  at('faults').hidden = !others.length;
  list('faultlist', others, (f) => {
    const parts = [signalled(f.level, f.sentence)];
    if (f.advice) parts.push(paragraph(f.advice));
    parts.push(paragraph(manual(f), 'small'));
    return parts;
  });
}

function showServers(s) {
  list('servers', s.call_servers, (x) => {
    const parts = [signalled(x.state, x.host), element('span', ` ${[x.probe, ms(x.rtt_ms)].filter(Boolean).join(' · ')}`, 'small')];
    if (x.why) parts.push(paragraph(x.why, 'small'));
    return parts;
  });
}

function certificateState(x) {
  const ends = Date.parse(x.expires);
  if (ends <= 0) return signalled('fail', t('status.certnone')); // no time at all
  if (x.days < 0) return signalled('fail', t('status.certended', { day: day(ends) }));
  return signalled(x.problem || x.soon ? 'warn' : 'ok', t('status.certlife', { day: day(ends), days: number.format(x.days) }));
}

function showCertificates(s) {
  const soon = (s.faults ?? []).some((f) => f.kind === 'certificate-ends');
  const all = (s.certificates ?? []).map((x) => ({ ...x, days: Math.floor((Date.parse(x.expires) - Date.parse(s.time)) / 864e5) }));
  list('certificates', all.map((x) => ({ ...x, soon: soon && x.days < 14 })), (x) => {
    const parts = [certificateState(x), element('p', (x.names ?? []).join(', '), 'small'), element('p', [x.issuer, x.source].filter(Boolean).join(' · '), 'small')];
    if (x.problem) parts.push(paragraph(x.problem));
    return parts;
  });
}

function showRefused(s) {
  list('refused', s.refused, (x) => [element('strong', `${x.network} × ${number.format(x.count)}`), element('span', ` ${t('status.last')} ${clock(x.last)}`, 'small'),
    element('p', t('status.refusedwrite'), 'small'), element('p', x.write, 'small code')]);
}

// What went down and what came up again bear a sign; the rest are notes.
function eventSign(kind) {
  if (/_down$|^incident$/.test(kind)) return signalled('warn', '');
  if (/_up$|^incident_over$/.test(kind)) return signalled('ok', '');
  return '';
}

function showEvents(s) {
  list('events', s.events, (x) => {
    const parts = [element('span', `${moment(x.time)} `, 'small'), eventSign(x.kind), ...prose(x.about ? `${x.about}: ${x.sentence}` : x.sentence)];
    if (x.advice) parts.push(paragraph(x.advice, 'small'));
    return parts;
  });
}

function showRuns(s) {
  list('runs', s.precall_runs, (x) => {
    const [name, sign] = signal(x.verdict);
    const link = element('a', x.code);
    link.href = `/status/helpdesk/?code=${encodeURIComponent(x.code)}`;
    const mark = element('span', undefined, name);
    mark.append(element('span', `${sign} `, 'signal'));
    return [mark, link, element('span', ` ${moment(x.time)} ${x.cause ?? ''}`, 'small')];
  });
}

function showPeers(s) {
  const peers = s.gateways ?? [];
  at('peercard').hidden = !peers.length;
  table('peers', [[t('status.peer')], [t('status.version')], [t('status.allocations'), 'n'], [t('status.websockets'), 'n'], [t('status.uptime'), 'n'], [t('status.state'), 'why']],
    peers.map((x) => [signalled(x.missing ? 'down' : x.verdict, x.self ? `${x.host} · ${t('status.thisone')}` : x.host), x.version, number.format(x.counts.allocations),
      number.format(x.counts.websockets), age(x.uptime_ns), x.missing ? t('status.silent', { age: age(x.silent_ns) }) : x.draining ? t('status.draining') : x.sentence]));
}

function showWeek(s) {
  const w = s.week;
  at('weekcard').hidden = !w || (!w.sessions && !w.worst);
  if (!w || !changed('week', w)) return;
  const n = (v) => number.format(Math.round(v));
  say('worst', w.worst ? t('status.week.worst', { place: w.worst.place, failed: n(w.worst.failed), runs: n(w.worst.runs), cause: w.worst.cause ?? '?' }) : '');
  const heads = (first) => [[first], [t('status.allocations'), 'n'], [t('status.week.minutes'), 'n']];
  const total = [t('status.week.all'), n(w.sessions), n(w.minutes)];
  table('weekrungs', heads(t('status.rung')), [...(w.rungs ?? []).map((x) => [x.rung, n(x.sessions), n(x.minutes)]), total]);
  table('weekdays', heads(t('status.week.day')), (w.days ?? []).map((x) => [new Date(`${x.day}T12:00:00`).toLocaleDateString(locale, { weekday: 'short', day: 'numeric', month: 'short' }),
    n(x.sessions), n(x.minutes)]));
}

// Addresses that came or went: for firewalls that go by address.
function showAddresses(s) {
  const changes = s.addresses_changed ?? [];
  at('addresscard').hidden = !changes.length;
  if (!changes.length) return;
  say('addressnote', t('status.addresses.note'));
  list('addresses', changes, (x) => {
    const parts = [element('strong', x.name), element('span', ` ${t('status.addresses.since', { day: day(x.since) })}`, 'small')];
    if (x.came) parts.push(paragraph(t('status.addresses.came', { list: x.came.join(', ') })));
    if (x.went) parts.push(paragraph(t('status.addresses.went', { list: x.went.join(', ') }), 'small'));
    return parts;
  });
}

const kinds = { websocket: 'WebSocket', 'long-poll': 'Long-poll' };

function showSessions(s) {
  const sessions = s.sessions ?? [];
  const c = s.counts;
  const all = c.allocations + c.websockets + c.longpolls + c.tunnels;
  at('sessionsnote').hidden = all <= sessions.length || sessions.length < 200;
  at('sessionsnote').textContent = t('status.sessionsnote', { shown: number.format(sessions.length), all: number.format(all) });
  table('sessions', [[t('status.kind')], [t('status.client')], [t('status.service')], [t('status.target')], [t('status.rung')], [t('status.rtt'), 'n'], [t('status.queue'), 'n'],
    [t('status.dropped'), 'n'], [t('status.age'), 'n']], sessions.map((x) => [kinds[x.kind] ?? x.kind, x.client, x.service ?? '', x.region ?? x.target ?? '', x.rung ?? '',
    ms(x.rtt_ms), ms(x.queue_ms), x.dropped ? number.format(x.dropped) : '', age(x.age_ns)]));
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
  showFaults(s);
  at('facts').textContent = `${s.name} · hafen ${s.version} · ${t('status.uptime')} ${age(s.uptime_ns)} · ${clock(s.time)}`;
  const c = s.counts;
  const newest = samples.at(-1) ?? { up: 0, down: 0 };
  figures('counts', [[t('status.allocations'), number.format(c.allocations)], [t('status.websockets'), number.format(c.websockets)], [t('status.longpolls'), number.format(c.longpolls)],
    [t('status.tunnels'), number.format(c.tunnels)], [t('status.connections'), number.format(c.connections)],
    [`${t('status.traffic')} ${t('status.up')}`, rate(newest.up)], [`${t('status.traffic')} ${t('status.down')}`, rate(newest.down)]]);
  drawCharts(s);
  showRegions(s);
  showServers(s);
  showCertificates(s);
  list('selftests', s.self_tests, (x) => [signalled(x.state === 'skipped' ? 'unknown' : x.state, x.sentence), ...(x.advice ? [paragraph(x.advice, 'small')] : [])]);
  showLimits(s);
  showRefused(s);
  showEvents(s);
  showRuns(s);
  showPeers(s);
  showSites(s);
  showWeek(s);
  showAddresses(s);
  showSessions(s);
  if (at('draincard')) at('draincard').hidden = s.draining;
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
