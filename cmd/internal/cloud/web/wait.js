// A patient in the waiting room. For machines: data-state (waiting, called, offline), data-signaling, and
// window.patient; join=1 follows the call without a click, longpoll=1 leaves WebSockets out.

import { Signal } from './signal.js';
import { Bell } from './bell.js';
import { clock, t } from './words.js';

const root = document.documentElement;
const $ = (id) => document.getElementById(id);
const options = new URLSearchParams(location.search);
const bell = new Bell();
const consoles = new Set();

const patient = (window.patient = { state: 'idle', signaling: 'none', consoles: 0, called: '', bell, signal: null });

function become(state) {
  patient.state = root.dataset.state = state;
}

function showDesk() {
  patient.consoles = consoles.size;
  $('desk').textContent = t(patient.signaling === 'none' ? 'patient.lost' : consoles.size ? 'patient.console' : 'patient.noConsole');
  $('desk').className = `notice ${patient.signaling === 'none' ? 'fair' : consoles.size ? 'good' : ''}`;
}

function called(room) {
  patient.called = room;
  const extra = new URLSearchParams(options);
  for (const key of ['name', 'room']) extra.delete(key);
  extra.set('join', '1'); // it was agreed by clicking
  $('join').href = `/r/${room}?${extra}`;
  if (options.has('join')) return location.assign($('join').href);
  become('called');
  $('title').textContent = document.title = t('patient.called');
  $('lead').textContent = t('patient.called.lead');
  $('join').hidden = false;
  $('desk').hidden = true;
  $('join').focus();
  bell.ring();
  const again = setInterval(() => (document.hidden || bell.rung < 10 ? bell.ring() : clearInterval(again)), 4000);
}

function receive(message) {
  if (message.type === 'welcome') {
    consoles.clear();
    for (const peer of message.peers) consoles.add(peer.id);
  } else if (message.type === 'joined') consoles.add(message.peer.id);
  else if (message.type === 'left') consoles.delete(message.peer.id);
  else if (message.data.call) called(message.data.call);
  showDesk();
}

patient.signal = new Signal({
  room: root.dataset.room || 'clinic',
  role: 'patient',
  name: document.body.dataset.name,
  longPoll: options.has('longpoll'),
  onmessage: receive,
  onstate: (transport) => {
    patient.signaling = root.dataset.signaling = transport === 'full' ? 'none' : transport;
    $('signaling').hidden = patient.signaling === 'none';
    $('signaling').textContent = t(`sig.${patient.signaling}`);
    if (patient.state !== 'called') become(patient.signaling === 'none' ? 'offline' : 'waiting');
    showDesk();
  },
});
patient.signal.start();
$('since').textContent = t('patient.since', { time: clock(Date.now()) });
// Any touch of the page lets the bell sound later.
addEventListener('pointerdown', () => bell.enable(), { once: true });
addEventListener('pagehide', () => patient.signal.close());
addEventListener('pageshow', (event) => event.persisted && location.reload());
