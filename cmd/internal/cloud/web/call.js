// The two-person call page.
//
// For machines: <html> carries data-state (idle, ready, joining, waiting, connecting, connected, restarting, ended,
// full, offline), data-signaling (websocket, longpoll, none), data-media, data-path, data-transport, data-region,
// data-via and data-restarts; window.call has the same and stats(). Parameters: join=1 joins without a click, relay=1
// uses relays only, region=NAME and transport=udp|tcp|tls narrow the ICE servers, longpoll=1 leaves WebSockets out,
// fake=1 needs no devices, video=off|small.

import { Signal } from './signal.js';
import { Link } from './link.js';
import { Way } from './way.js';
import { openMedia, meter } from './media.js';
import { number, t } from './words.js';

const root = document.documentElement;
const $ = (id) => document.getElementById(id);
const options = new URLSearchParams(location.search);

const call = {
  state: 'idle',
  room: root.dataset.room,
  signaling: 'none',
  id: '',
  media: '',
  restarts: 0,
  errors: [], // icecandidateerror: {url, code, text}
  history: [], // {at, state, why}
  stream: null,
  signal: null,
  link: null,
  way: null,
  peer: null,
  stats: readStats,
  restart: () => call.link?.restart('asked'),
  hangup,
};
window.call = call;

// --- What the page shows

function become(state, why = '') {
  if (call.state === state) return;
  call.state = root.dataset.state = state;
  call.history.push({ at: Date.now(), state, why });
  $('before').hidden = !['idle', 'ready'].includes(state);
  $('stage').hidden = !$('before').hidden;
  const titles = { waiting: 'wait.alone', joining: 'state.joining', connecting: 'state.connecting', ended: 'state.ended', full: 'state.full', offline: 'state.offline' };
  if (titles[state]) $('card-title').textContent = t(titles[state]);
  const leads = { waiting: 'wait.alone.lead', connecting: 'state.connecting.lead', ended: 'state.ended.lead', full: 'state.full.lead', offline: 'state.offline.lead' };
  $('card-lead').textContent = leads[state] ? t(leads[state]) : '';
  $('card-link').hidden = state !== 'waiting';
  $('card-actions').hidden = !['ended', 'full'].includes(state);
  if (['ended', 'full'].includes(state)) showDetails(false);
  toast(state === 'restarting' ? t('state.restarting') : '');
  if (state === 'restarting') sign('poor', t('way.broken'));
  if (state === 'connecting') sign('unknown', t('way.none'));
}

// sign is the state of the way: a sign, a colour and words.
function sign(quality, text) {
  root.dataset.quality = quality;
  $('way-sign').className = `sig ${quality}`;
  $('way-sign').textContent = { good: '✓', fair: '!', poor: '✕', unknown: '?' }[quality];
  $('way-text').textContent = text;
}

function toast(sentence) {
  $('toast').textContent = sentence;
  $('toast').hidden = sentence === '';
}

function showDetails(show) {
  $('details').hidden = !show;
  for (const id of ['more', 'way']) $(id).setAttribute('aria-expanded', String(show));
}

function showSignaling(transport) {
  call.signaling = root.dataset.signaling = transport === 'full' ? 'none' : transport;
  const key = transport === 'longpoll' && !options.has('longpoll') ? 'sig.longpoll.why' : `sig.${call.signaling}`;
  const cut = call.signal?.cutAfter;
  $('row-signaling').textContent = transport === 'longpoll' && cut ? t('sig.longpoll.cut', { s: cut }) : t(key);
}

// --- Devices

async function prepare() {
  $('retry').hidden = true;
  $('join').disabled = true;
  const { stream, state } = await openMedia({ fake: options.has('fake'), video: options.get('video') ?? '' });
  call.stream = stream;
  call.media = root.dataset.media = state;
  $('devices').textContent = t(`media.${state}`);
  $('devices').className = `notice ${state === 'ok' ? 'good' : stream ? 'fair' : 'poor'}`;
  $('retry').hidden = state === 'ok' || state === 'unsupported';
  $('join').disabled = state === 'unsupported';
  $('join').textContent = t(!stream ? 'pre.joinNothing' : state === 'audioOnly' ? 'pre.joinAudio' : 'pre.join');
  $('preview').srcObject = stream;
  const picture = Boolean(stream?.getVideoTracks().length);
  $('preview').parentElement.dataset.picture = picture ? 'yes' : 'no';
  root.dataset.camera = picture ? 'on' : 'off';
  call.stopMeter?.();
  call.stopMeter = meter(stream, (level) => ($('level').value = level));
  for (const [id, kind] of [['mic', 'audio'], ['cam', 'video']]) $(id).disabled = !stream?.getTracks().some((x) => x.kind === kind);
  become('ready');
}

function toggle(button, kind, on, off) {
  const enabled = button.getAttribute('aria-pressed') !== 'true';
  for (const track of call.stream?.getTracks() ?? []) if (track.kind === kind) track.enabled = enabled;
  button.setAttribute('aria-pressed', String(enabled));
  button.title = t(enabled ? on : off);
  if (kind === 'video') root.dataset.camera = enabled ? 'on' : 'off';
}

// --- The call

function join() {
  call.stopMeter?.();
  $('ours').srcObject = call.stream;
  become('joining');
  call.signal = new Signal({
    room: call.room,
    longPoll: options.has('longpoll'),
    onmessage: receive,
    onstate: (transport) => {
      showSignaling(transport);
      if (transport === 'full') turnAway();
      else if (transport === 'none' && !call.link) become('offline');
    },
  });
  call.signal.start();
}

function receive(message) {
  switch (message.type) {
    case 'welcome':
      if (call.link) drop(); // the service has forgotten us: whoever is there sees a newcomer
      call.id = message.you;
      if (message.peers.length === 0) become('waiting');
      else call.peer = message.peers.at(-1).id; // who was here before us offers
      break;
    case 'joined':
      drop();
      call.peer = message.peer.id;
      connect();
      break;
    case 'left':
      if (message.peer.id === call.peer) left(message.reason);
      break;
    case 'signal':
      if (message.data.bye) left('bye');
      else hear(message);
      break;
  }
}

async function hear(message) {
  call.peer = message.from;
  if (!call.link && !call.linking && !message.data.description) return;
  (await connect()).receive(message.data);
}

// connect makes the link to the other person, once.
function connect() {
  call.linking ??= makeLink(call.peer);
  return call.linking;
}

async function makeLink(peer) {
  become('connecting');
  const config = await fetchICE().catch(() => ({ iceServers: [] }));
  const link = new Link({
    polite: Number(call.id.slice(1)) > Number(peer.slice(1)),
    stream: call.stream,
    config,
    ice: fetchICE,
    send: (data) => call.signal.send(data, peer),
    onstate: (state, why) => linkState(state, why),
    onstream: showTheirs,
  });
  call.link = link;
  call.errors = link.errors;
  call.way = new Way(link.pc, throughGateway);
  return link;
}

function linkState(state, why) {
  if (state === 'restarting') {
    if (call.lost) return left('bye'); // neither media nor signaling: it is gone
    root.dataset.restarts = ++call.restarts;
    $('row-restarts').textContent = call.restarts;
    if (call.state === 'connecting') return; // not connected yet: nothing broke
  }
  become(state, why);
  if (state === 'connected' && call.lost) toast(t('state.elsewhere'));
}

// fetchICE is the RTCConfiguration of now, narrowed to what the page's parameters ask for.
async function fetchICE() {
  const region = options.get('region');
  const answer = await fetch(`/ice${region ? `?region=${encodeURIComponent(region)}` : ''}`, { cache: 'no-store', signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(`ice: ${answer.status}`);
  const { iceServers, iceTransportPolicy = 'all', gateway = [] } = await answer.json();
  const wanted = options.get('transport');
  const servers = iceServers
    .map((s) => ({ ...s, urls: s.urls.filter((url) => !wanted || transportOf(url) === wanted) }))
    .filter((s) => s.urls.length > 0);
  call.gateway = gateway;
  call.gatewayOnly = gateway.length > 0 && servers.every((s) => s.urls.every((url) => gateway.includes(url)));
  const relay = options.get('relay');
  return { iceServers: servers, iceTransportPolicy: relay === '1' ? 'relay' : relay === '0' ? 'all' : iceTransportPolicy };
}

// throughGateway: Firefox does not say which URL a candidate is from.
function throughGateway(url) {
  return url ? call.gateway.includes(url) : call.gatewayOnly;
}

function transportOf(url) {
  if (url.startsWith('turns:')) return 'tls';
  return url.endsWith('transport=tcp') ? 'tcp' : 'udp';
}

async function showTheirs(stream) {
  const video = $('theirs');
  if (video.srcObject !== stream) video.srcObject = stream;
  try {
    await video.play();
    $('unlock').hidden = true;
  } catch (error) {
    // Sound may start after a click only. AbortError: a second track came while it was starting.
    $('unlock').hidden = error.name !== 'NotAllowedError';
  }
}

function drop() {
  call.link?.close();
  call.link = call.linking = call.way = null;
  call.lost = false;
  $('theirs').srcObject = null;
  for (const name of ['path', 'transport', 'region', 'via']) delete root.dataset[name];
}

// left: "bye" ends the call; "lost" only says that the service can't reach the other person.
function left(reason) {
  if (reason === 'lost' && call.link?.pc.connectionState === 'connected') {
    call.lost = true;
    toast(t('state.elsewhere'));
    return;
  }
  drop();
  become('waiting');
}

function hangup() {
  call.signal?.close();
  drop();
  stopDevices();
  showSignaling('none');
  become('ended');
}

function turnAway() {
  stopDevices();
  become('full');
}

function stopDevices() {
  for (const track of call.stream?.getTracks() ?? []) track.stop();
}

// --- What is measured

async function readStats() {
  const sample = call.way ? await call.way.sample() : { pair: null, quality: 'unknown', framesDecoded: 0, audioPacketsReceived: 0 };
  return { ...sample, state: call.state, signaling: call.signaling, restarts: call.restarts, errors: call.errors };
}

const series = { rtt: [], rate: [] };

async function watch() {
  if (call.way && call.state === 'connected') {
    const s = await readStats();
    if (s.pair) show(s);
  }
  setTimeout(watch, 1000);
}

function show(s) {
  const { local, remote } = s.pair;
  const relayed = local?.candidateType === 'relay';
  const transport = (relayed ? local.relayProtocol : local?.protocol || 'udp').toUpperCase();
  Object.assign(root.dataset, { path: local?.candidateType ?? '', transport: transport.toLowerCase(), region: s.region, via: s.via });
  const rtt = s.rtt === null ? '–' : `${number(s.rtt)} ${t('unit.ms')}`;
  sign(s.quality, [t(`way.quality.${s.quality}`), relayed ? `${s.regionLabel || t('kind.relay')} · ${transport}` : t(`kind.${local.candidateType}`), rtt].join(' · '));
  $('way-sentence').textContent = sentence(s, relayed, transport);
  const kbps = (v) => (v === undefined ? '–' : `${number(v)} ${t('unit.kbps')}`);
  const percent = (v) => (v === null || v === undefined ? '–' : `${number(v, 1)} %`);
  const rows = {
    media: `${t(`kind.${local.candidateType}`)} → ${t(`kind.${remote.candidateType}`)}`,
    region: s.regionLabel || '–',
    server: relayed ? local.url || '–' : '–',
    transport,
    rtt,
    up: kbps(s.kbpsUp),
    down: kbps(s.kbpsDown),
    lossUp: percent(s.lossUp),
    lossDown: percent(s.lossDown),
    picture: s.frameWidth ? `${s.frameWidth} × ${s.frameHeight}, ${number(s.framesPerSecond)}/s` : '–',
    errors: [...new Set(call.errors.map((e) => `${e.code} ${e.url}`))].join('\n') || '–',
  };
  for (const [id, text] of Object.entries(rows)) $(`row-${id}`).textContent = text;
  draw('rtt', s.rtt, rtt);
  draw('rate', s.kbpsDown, kbps(s.kbpsDown));
}

function sentence(s, relayed, transport) {
  if (!relayed) return t(s.pair.local.candidateType === 'host' ? 'way.host' : 'way.direct');
  if (!s.regionLabel) return t('way.relayUnknown', { transport });
  return t(s.via === 'gateway' ? 'way.gateway' : 'way.relay', { region: s.regionLabel, transport });
}

// draw adds a value to a chart of the last 120 seconds.
function draw(name, value, text) {
  const values = series[name];
  values.push(value ?? null);
  if (values.length > 120) values.shift();
  const top = Math.max(...values.map((v) => v ?? 0), 1) * 1.15;
  let pen = 'M';
  const path = values.map((v, i) => {
    if (v === null) {
      pen = 'M';
      return '';
    }
    const point = `${pen}${120 - values.length + i} ${(31 - (v / top) * 30).toFixed(1)}`;
    pen = 'L';
    return point;
  });
  const chart = $(`chart-${name}`);
  chart.firstElementChild.setAttribute('d', path.join(''));
  chart.setAttribute('aria-label', text);
  $(`now-${name}`).textContent = text;
}

// --- Hands

document.title = t('call.title', { room: call.room });
$('room').textContent = t('call.room', { room: call.room });
$('link').value = `${location.origin}/r/${call.room}`;
$('join').onclick = join;
$('retry').onclick = prepare;
$('rejoin').onclick = () => location.reload();
$('mic').onclick = () => toggle($('mic'), 'audio', 'ctl.micOn', 'ctl.micOff');
$('cam').onclick = () => toggle($('cam'), 'video', 'ctl.camOn', 'ctl.camOff');
$('hangup').onclick = hangup;
$('more').onclick = $('way').onclick = () => showDetails($('details').hidden);
$('details-close').onclick = () => showDetails(false);
$('unlock').onclick = () => showTheirs($('theirs').srcObject);
$('link').onfocus = () => $('link').select();
$('copy').onclick = async () => {
  $('link').select();
  try {
    await navigator.clipboard.writeText($('link').value);
  } catch {
    document.execCommand('copy'); // pages without the clipboard's permission
  }
  $('copy').textContent = t('wait.copied');
  setTimeout(() => ($('copy').textContent = t('wait.copy')), 2000);
};
document.addEventListener('keydown', (event) => event.key === 'Escape' && showDetails(false));
// A page that is left says so, and one that comes back from the browser's cache starts anew.
addEventListener('pagehide', () => call.signal?.close());
addEventListener('pageshow', (event) => event.persisted && location.reload());

watch();
prepare().then(() => options.has('join') && join());
