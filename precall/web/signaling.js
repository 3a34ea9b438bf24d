// The ways for messages: HTTPS, WebSocket, and a request that is held like a long-poll.
import { remember, reportURL } from './consent.js';
import { proxied } from './relays.js';
import { median, sleep, within } from './wait.js';

// echo opens a WebSocket and sends five messages to and fro; the value is the median round trip.
export async function echo(host, signal) {
  const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss:' : 'ws:'}//${host}/.well-known/hafen/ws`);
  const talk = new Promise((resolve) => {
    const times = [];
    let sent = 0;
    const send = () => {
      sent = performance.now();
      socket.send(`echo ${times.length}`);
    };
    socket.onopen = send;
    socket.onmessage = () => {
      times.push(performance.now() - sent);
      if (times.length < 5) send();
      else resolve({ result: 'ok', value: Math.round(median(times) * 10) / 10 });
    };
    let opened = false;
    socket.addEventListener('open', () => { opened = true; });
    socket.onclose = (event) => resolve({ result: 'fail', error: opened ? 'closed' : 'network', detail: `close code ${event.code}` });
  });
  try {
    return await within(10000, talk, { result: 'fail', error: 'timeout' }, signal);
  } finally {
    socket.onclose = null;
    socket.close();
  }
}

// opens tries a WebSocket of the service's own. A script can't see by which status it was refused.
async function opens(url, signal) {
  const start = performance.now();
  const socket = new WebSocket(url);
  const opened = new Promise((resolve) => {
    socket.onopen = () => resolve({ result: 'ok', value: Math.round(performance.now() - start) });
    socket.onclose = (event) => resolve({ result: 'fail', error: 'not-opened', detail: `close code ${event.code}` });
  });
  try {
    return await within(10000, opened, { result: 'fail', error: 'timeout' }, signal);
  } finally {
    socket.onclose = null;
    socket.close();
  }
}

// hold asks for an answer only after so many seconds, and finds out whether the line lives that long. What a service's own path answers
// before is its own business; only that the line breaks is a cut. Where it breaks a browser may ask again by itself: the gateway, which has
// heard of the name before, then says how long the first one lasted.
export async function hold(url, seconds, { own }, signal) {
  const stop = new AbortController();
  signal.addEventListener('abort', () => stop.abort(), { once: true });
  const start = performance.now();
  const after = () => Math.round((performance.now() - start) / 100) / 10;
  const asked = fetch(url, { cache: 'no-store', mode: own ? 'cors' : 'no-cors', credentials: own ? 'same-origin' : 'omit', signal: stop.signal }).then(
    async (response) => {
      if (!own) return { result: 'ok', value: after() };
      const took = after();
      const said = (await response.text()).trim();
      if (response.status === 409) return { result: 'fail', error: 'cut', value: Number(said), detail: 'asked again by the browser' };
      if (response.status === 429) return { result: 'unknown', error: 'refused' };
      if (response.ok && took >= seconds - 1) return { result: 'ok', value: seconds };
      return { result: 'fail', error: 'cut', value: took, detail: `HTTP ${response.status}` };
    },
    (error) => ({ result: 'fail', error: after() < 1.5 ? 'network' : 'cut', value: after(), detail: error.name }),
  );
  const late = own ? { result: 'fail', error: 'timeout', value: seconds + 10 } : { result: 'ok', value: seconds };
  const answer = await within((own ? seconds + 10 : seconds) * 1000, asked, late, signal);
  stop.abort();
  return answer;
}

// heldPath is what the gateway holds for so long, by a name that is used once.
export function heldPath(seconds) {
  const name = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, '0')).join('');
  return `/.well-known/hafen/hold?s=${seconds}&n=${name}`;
}

// CallServer is one call server under test: `asked` says what there is to ask.
export class CallServer {
  constructor(asked, plan, record, signal) {
    Object.assign(this, { asked, plan, record, signal, host: asked.host });
  }

  // test makes all checks; the held request runs beside the others.
  async test(seconds) {
    this.ours = await this.leadsHere();
    this.held = this.longPoll(seconds);
    this.held.catch(() => {}); // when something else ends the run first, that is what counts
    await this.https();
    await this.webSocket();
  }

  // leadsHere tells whether the call server's name leads to the gateway, which then answers in its own words.
  async leadsHere() {
    try {
      const response = await within(8000, fetch(`https://${this.host}/.well-known/hafen/here`, { cache: 'no-store', signal: this.signal }), null, this.signal);
      return response?.ok === true && (await response.text()).trim() === this.plan.gateway;
    } catch (error) {
      if (this.signal.aborted) throw error;
      return false; // another's server without CORS, or none
    }
  }

  async https() {
    const start = performance.now();
    let found;
    for (const path of new Set([this.asked.https || '/', '/favicon.ico', '/robots.txt'])) {
      found = await this.reach(path);
      if (found.result === 'ok' || found.error === 'timeout') break;
    }
    const ms = performance.now() - start;
    // Without an address of its own a name is still reached through a proxy, and who waits for long is waiting for one.
    if (found.result !== 'ok' && await unnamed(this.host, this.signal)) {
      found.error = found.error === 'timeout' || await proxied(this.signal) ? 'proxied' : 'dns';
    }
    this.record('call-server:https', { level: 'service', ...found, ms }, this.host);
  }

  // reach asks without wanting to read the answer. That our own policy stops what the answer leads to is an answer as well.
  async reach(path) {
    const start = performance.now();
    const took = () => Math.round(performance.now() - start);
    let led = false;
    const onward = (event) => { led ||= event.effectiveDirective === 'connect-src'; };
    document.addEventListener('securitypolicyviolation', onward);
    try {
      const url = `https://${this.host}${path}`;
      const answer = await within(10000, fetch(url, { mode: 'no-cors', cache: 'no-store', credentials: 'omit', signal: this.signal }), null, this.signal);
      return answer ? { result: 'ok', value: took() } : { result: 'fail', error: 'timeout' };
    } catch (error) {
      if (this.signal.aborted) throw error;
      await sleep(20, this.signal); // the event may come a moment later
      return led ? { result: 'ok', value: took() } : { result: 'fail', error: 'network', detail: error.name };
    } finally {
      document.removeEventListener('securitypolicyviolation', onward);
    }
  }

  async webSocket() {
    const start = performance.now();
    let found = { result: 'skipped', error: 'no-probe' };
    if (this.asked.websocket) found = { level: 'service', ...await opens(`wss://${this.host}${this.asked.websocket}`, this.signal) };
    if (found.result !== 'ok' && this.ours) found = { level: 'gateway', ...await echo(this.host, this.signal) };
    this.record('call-server:websocket', { ...found, ms: performance.now() - start }, this.host);
  }

  async longPoll(seconds) {
    const start = performance.now();
    let found = { result: 'skipped', error: 'no-probe' };
    if (this.asked.longpoll) found = { level: 'service', ...await hold(`https://${this.host}${this.asked.longpoll}`, seconds, { own: false }, this.signal) };
    else if (this.ours) found = { level: 'gateway', ...await hold(`https://${this.host}${heldPath(seconds)}`, seconds, { own: true }, this.signal) };
    this.record('call-server:longpoll', { ...found, ms: performance.now() - start }, this.host);
  }
}

// unnamed tells whether a name has no address here: ICE says so in words, requests never do. false: it has, or the browser does not tell.
export async function unnamed(host, signal) {
  if (typeof RTCPeerConnection !== 'function') return false;
  const peer = new RTCPeerConnection({ iceServers: [{ urls: `stun:${host}:443` }] });
  const said = new Promise((resolve) => {
    peer.onicecandidateerror = ({ errorText }) => resolve(/host lookup/i.test(errorText ?? ''));
    peer.onicegatheringstatechange = () => peer.iceGatheringState === 'complete' && setTimeout(() => resolve(false), 50);
  });
  try {
    peer.createDataChannel('x');
    await peer.setLocalDescription();
    return await within(6000, said, false, signal);
  } catch (error) {
    if (signal.aborted) throw error;
    return false;
  } finally {
    peer.close();
  }
}

// send posts the measurements. It tries again while a network that has just been shaken up comes back.
export async function send(measurements, signal) {
  let problem;
  remember(measurements);
  for (let attempt = 0; attempt < 4; attempt += 1) {
    if (attempt > 0) await sleep(2000, signal);
    try {
      const response = await fetch(reportURL(), {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ ...measurements, clock: Date.now() }),
        signal: AbortSignal.any ? AbortSignal.any([signal, AbortSignal.timeout(20000)]) : signal,
      });
      if (response.ok || response.status === 507) return await response.json(); // 507: judged, but there was no room to keep it
      problem = `HTTP ${response.status}: ${(await response.text()).trim()}`;
      if (response.status === 400 || response.status === 413) break; // it will not get better
    } catch (error) {
      problem = error.name;
    }
  }
  throw new Error(problem);
}
