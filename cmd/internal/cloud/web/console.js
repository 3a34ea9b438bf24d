// The waiting-room console: stays open all day, rings when a patient arrives. For machines: data-state (open,
// offline), data-signaling, data-waiting, data-rung, and window.desk with patients, arrivals (each with the times it
// happened and was shown) and polls; longpoll=1 leaves WebSockets out.

import { Signal } from './signal.js';
import { Bell } from './bell.js';
import { clock, t } from './words.js';

const root = document.documentElement;
const $ = (id) => document.getElementById(id);
const options = new URLSearchParams(location.search);
const opened = Date.now();
const bell = new Bell();
const rows = new Map(); // patient id → {li, since}

const desk = (window.desk = { state: 'idle', signaling: 'none', patients: [], arrivals: [], bell, signal: null });
const room = root.dataset.room || 'clinic';

// --- The list

function add(peer, isNew) {
  const li = $('patient').content.firstElementChild.cloneNode(true);
  li.querySelector('b').textContent = peer.name || t('console.anonymous');
  li.dataset.patient = peer.id;
  const button = li.querySelector('button');
  button.textContent = t('console.call');
  button.onclick = () => callIn(peer, button);
  rows.set(peer.id, { li, peer });
  $('patients').append(li);
  desk.arrivals.push({ id: peer.id, name: peer.name, since: peer.since, shown: Date.now(), rung: isNew });
  if (!isNew) return;
  li.classList.add('new');
  setTimeout(() => li.classList.remove('new'), 10_000);
  bell.ring();
  root.dataset.rung = bell.rung;
}

function remove(peer) {
  rows.get(peer.id)?.li.remove();
  rows.delete(peer.id);
}

function show() {
  const n = rows.size;
  desk.patients = [...rows.values()].map(({ peer }) => peer);
  root.dataset.waiting = n;
  $('headline').textContent = n === 0 ? t('console.none') : n === 1 ? t('console.one') : t('console.many', { n });
  $('lead').hidden = n > 0;
  document.title = (n ? `(${n}) ` : '') + t('console.title');
  for (const { li, peer } of rows.values()) {
    const minutes = Math.floor((Date.now() - new Date(peer.since)) / 60_000);
    li.querySelector('.small').textContent = minutes < 1 ? t('console.now') : t('console.minutes', { n: minutes });
  }
}

function showStatus(transport) {
  desk.signaling = root.dataset.signaling = transport === 'full' ? 'none' : transport;
  const up = desk.signaling !== 'none';
  desk.state = root.dataset.state = up ? 'open' : 'offline';
  $('status-sign').className = `sig ${up ? 'good' : 'poor'}`;
  $('status-sign').textContent = up ? '✓' : '✕';
  $('status-text').textContent = up
    ? [t('console.up'), t(`sig.${desk.signaling}`), t('console.open', { time: clock(opened) })].join(' · ')
    : t('console.down');
}

// callIn opens a room of our own and tells the patient its name.
function callIn(peer, button) {
  const digits = Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(36).padStart(2, '0')).join('').slice(0, 12);
  const name = `${digits.slice(0, 4)}-${digits.slice(4, 8)}-${digits.slice(8)}`;
  desk.signal.send({ call: name }, peer.id);
  button.textContent = t('console.again');
  button.classList.remove('primary');
  const page = `/r/${name}?join=1`;
  if (!window.open(page, '_blank')) location.assign(page);
}

function receive(message) {
  if (message.type === 'welcome') {
    for (const { peer } of [...rows.values()]) remove(peer);
    for (const peer of message.peers) if (peer.role === 'patient') add(peer, false);
  } else if (message.type === 'joined' && message.peer.role === 'patient') add(message.peer, true);
  else if (message.type === 'left') remove(message.peer);
  show();
}

// --- Hands

async function toggleBell() {
  if (bell.on) await bell.disable();
  else if (await bell.enable()) bell.ring();
  $('bell').textContent = t(bell.on ? 'console.bellOn' : 'console.bellOff');
  $('bell').setAttribute('aria-pressed', String(bell.on));
  $('bell').classList.toggle('primary', !bell.on);
}

$('bell').onclick = toggleBell;
$('entrance').textContent = $('entrance').href = `${location.origin}/wait${room === 'clinic' ? '' : `?room=${room}`}`;
desk.signal = new Signal({ room, role: 'console', longPoll: options.has('longpoll'), onmessage: receive, onstate: showStatus });
desk.signal.start();
show();
setInterval(show, 20_000);
addEventListener('pagehide', () => desk.signal.close());
addEventListener('pageshow', (event) => event.persisted && location.reload());
