// One run of the test: what is measured, in which order, and how far it is.
import { browserChecks, LevelMeter, measureCamera, openDevices, standIn } from './devices.js';
import { echo, hold, send } from './signaling.js';
import { loopMedia, relayURLs, tryRelay } from './relays.js';
import { sleep } from './wait.js';

// steps are what is measured one after the other, with the seconds that each usually takes; the held request runs beside.
const steps = { devices: 5, signaling: 1, relays: 4, media: 11 };

// Run measures. `show` has functions of the page: progress, step, check, camera, level.
export class Run {
  constructor(seconds, show) {
    this.seconds = seconds;
    this.show = show;
    this.stop = new AbortController();
    this.checks = [];
    this.done = new Set();
    this.running = new Map(); // step → when it began
    this.cleanup = [];
  }

  cancel() {
    this.stop.abort();
  }

  // record keeps one measurement in the form that the gateway takes.
  record(id, measured, target) {
    const { result, error, value, detail, ms } = measured;
    const check = { id, result, ms: Math.max(0, Math.round(ms ?? 0)) };
    if (target) check.target = target;
    if (error) check.error = error;
    if (Number.isFinite(value)) check.value = value;
    if (detail) check.detail = String(detail).replace(/[^\x20-\x7e]/g, ' ').slice(0, 250);
    this.checks.push(check);
    this.show.check(check);
  }

  // timed measures how long something takes and adds it to what it found.
  async timed(work) {
    const start = performance.now();
    return { ...(await work), ms: performance.now() - start };
  }

  // start measures everything, sends it in and resolves to the gateway's answer.
  async start() {
    const ticker = setInterval(() => this.tick(), 200);
    const signal = this.stop.signal;
    try {
      this.began = performance.now();
      const held = this.timed(hold(this.seconds, signal)).then((measured) => {
        this.heldFor = performance.now();
        this.record('call-server:longpoll', measured);
      });
      held.catch(() => {}); // when something else ends the run first, that is what counts
      const able = browserChecks((id, measured) => this.record(id, measured));
      const [device, , relays] = await Promise.all([
        this.step('devices', () => this.devices(able)),
        this.step('signaling', async () => this.record('call-server:websocket', await this.timed(echo(signal)))),
        this.step('relays', () => this.relays()),
      ]);
      await this.step('media', () => this.media(relays, device));
      await held;
      this.show.step('analysis');
      this.show.progress(0.98);
      return await send({ version: 1, hold: this.seconds, checks: this.checks }, signal);
    } finally {
      clearInterval(ticker);
      this.cleanup.forEach((clean) => clean());
    }
  }

  async step(name, work) {
    this.running.set(name, performance.now());
    try {
      return await work();
    } finally {
      this.running.delete(name);
      this.done.add(name);
    }
  }

  // tick tells how far the run is: as far as the slower of the two, the held request and everything else.
  tick() {
    const now = performance.now();
    let spent = 0;
    let total = 0;
    for (const [name, usual] of Object.entries(steps)) {
      total += usual;
      if (this.done.has(name)) spent += usual;
      else if (this.running.has(name)) spent += Math.min(usual * 0.95, (now - this.running.get(name)) / 1000);
    }
    const seconds = Math.min(this.seconds, (now - this.began) / 1000);
    const held = this.heldFor ? 1 : Math.min(0.99, seconds / this.seconds);
    this.show.progress(0.97 * Math.min(spent / total, held));
    this.show.hold(this.heldFor ? undefined : Math.floor(seconds), this.seconds);
    this.show.step(['media', 'relays', 'devices', 'signaling'].find((name) => this.running.has(name)) ?? 'hold');
  }

  // devices opens camera and microphone and looks at what they give.
  async devices(able) {
    if (!able) {
      for (const id of ['camera', 'microphone']) this.record(id, { result: 'skipped', error: window.isSecureContext ? 'unsupported' : 'insecure' });
      return null;
    }
    const start = performance.now();
    const { stream, camera, microphone } = await openDevices(this.stop.signal);
    if (stream) this.cleanup.push(() => stream.getTracks().forEach((track) => track.stop()));
    await Promise.all([this.camera(stream, camera, start), this.microphone(stream, microphone, start)]);
    return stream;
  }

  async camera(stream, { error, detail }, start) {
    if (error || !stream?.getVideoTracks().length) {
      this.record('camera', { result: 'fail', error: error ?? 'missing', detail, ms: performance.now() - start });
      return;
    }
    const video = await this.show.camera(stream);
    const value = await measureCamera(video, this.stop.signal);
    this.record('camera', { result: 'ok', value, error: value === undefined ? 'unmeasured' : '', ms: performance.now() - start });
  }

  async microphone(stream, { error, detail }, start) {
    if (error || !stream?.getAudioTracks().length) {
      this.record('microphone', { result: 'fail', error: error ?? 'missing', detail, ms: performance.now() - start });
      return;
    }
    const meter = new LevelMeter(stream, this.show.level);
    this.cleanup.push(() => meter.stop());
    await sleep(4000, this.stop.signal);
    const value = meter.loudest === undefined ? undefined : Math.round(meter.loudest);
    this.record('microphone', { result: 'ok', value, error: value === undefined ? 'unmeasured' : '', ms: performance.now() - start });
  }

  // relays tries every way at once, and answers with those that work, the best first.
  async relays() {
    const signal = this.stop.signal;
    const found = typeof RTCPeerConnection === 'function'
      ? await relayURLs(signal).catch((error) => ({ problem: 'network', detail: error.name }))
      : { problem: 'unsupported' };
    if (found.problem) {
      for (const kind of ['udp', 'tcp', 'tls']) this.record(`relay:${kind}`, { result: 'unknown', error: found.problem, detail: found.detail });
      return [];
    }
    for (const kind of ['udp', 'tcp', 'tls']) {
      if (!found.relays.some((relay) => relay.kind === kind)) this.record(`relay:${kind}`, { result: 'skipped', error: 'not-offered' });
    }
    const tried = await Promise.all(found.relays.slice(0, 16).map(async (relay) => {
      const measured = await this.timed(tryRelay(relay, signal));
      this.record(`relay:${relay.kind}`, measured, relay.url);
      return { ...relay, ...measured };
    }));
    const rank = ['udp', 'tls', 'tcp'];
    return tried.filter((relay) => relay.result === 'ok').sort((a, b) => rank.indexOf(a.kind) - rank.indexOf(b.kind));
  }

  // media loops sound and picture over the best way.
  async media([best], devices) {
    if (!best) {
      for (const id of ['relay:media', 'rtt', 'jitter', 'loss']) this.record(id, { result: 'skipped' });
      return;
    }
    this.record('rtt', { result: 'ok', value: Math.round(best.rtt * 10) / 10 });
    let stream = devices;
    if (!stream?.getVideoTracks().length) {
      const made = standIn();
      this.cleanup.push(made.stop);
      stream = made.stream;
    }
    const start = performance.now();
    const { media, loss, jitter } = await loopMedia(best, stream, this.stop.signal);
    const ms = performance.now() - start;
    this.record('relay:media', { ...media, ms }, best.url);
    this.record('jitter', jitter === undefined ? { result: 'unknown', error: 'unmeasured' } : { result: 'ok', value: jitter, ms });
    this.record('loss', loss === undefined ? { result: 'unknown', error: 'unmeasured' } : { result: 'ok', value: loss, ms });
  }
}
