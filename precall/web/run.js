// One run of the test: what is measured, in which order, and how far it is.
import { askHeard, DevicePick, hideHeard } from './devicepick.js';
import { browserChecks, LevelMeter, measureCamera, openDevices, openOne, openPlain, playTone, standIn } from './devices.js';
import { makeCharts } from './livecharts.js';
import { loadDown, loadUp } from './load.js';
import { getPlan } from './plan.js';
import { addresses, Loop, loopMedia, reach, reachOpenly, relayURLs, tryRelay } from './relays.js';
import { CallServer, echo, heldPath, hold, send } from './signaling.js';
import { Lateness, median, percentile, sleep } from './wait.js';

// steps are what is measured, with the seconds that each usually takes; the held requests run beside.
const usual = { devices: 9, signaling: 2, relays: 8, media: 14, bandwidth: 10 };
const longest = 60; // what holds longer is the long run, which looks at media for longer too
const quick = 58; // seconds that a quick run takes at most; what is slow leaves less time for what comes after it
const judging = 4; // of them for the gateway, to measure its own half

// Run measures. `show` has functions of the page: progress, step, hold, check, camera, level.
export class Run {
  constructor(seconds, show, { asks = true } = {}) {
    this.seconds = seconds;
    this.show = show;
    this.asks = asks; // somebody is there to be asked
    this.long = seconds > longest;
    this.mediaSeconds = this.long ? 60 : 10;
    this.steps = { ...usual, media: usual.media - 10 + this.mediaSeconds };
    this.stop = new AbortController();
    this.checks = [];
    this.series = new Map();
    this.done = new Set();
    this.running = new Map(); // step → when it began
    this.cleanup = [];
  }

  cancel() {
    this.stop.abort();
  }

  // record keeps one measurement in the form that the gateway takes. A device that was chosen anew is measured anew.
  record(id, measured, target) {
    const { result, level, error, value, detail, ms } = measured;
    const check = { id, result, ms: Math.max(0, Math.round(ms ?? 0)) };
    if (target) check.target = target;
    if (level) check.level = level;
    if (error) check.error = error;
    if (Number.isFinite(value)) check.value = value;
    if (detail) check.detail = String(detail).replace(/[^\x20-\x7e]/g, ' ').slice(0, 250);
    const before = this.checks.findIndex((old) => old.id === id && old.target === check.target);
    if (before >= 0) {
      this.checks[before] = check;
      return;
    }
    this.checks.push(check);
    if (level !== 'path' && result !== 'skipped') this.show.check(check); // where the gateway is the way, the others are for the report
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
      this.charts = makeCharts();
      const held = this.held();
      held.catch(() => {}); // when something else ends the run first, that is what counts
      const able = browserChecks((id, measured) => this.record(id, measured));
      this.plan = await getPlan(signal);
      const [stream, , relays] = await Promise.all([
        this.step('devices', () => this.devices(able)),
        this.step('signaling', () => this.signaling()),
        this.step('relays', () => this.relays()),
      ]);
      await this.line(relays, stream);
      await Promise.all([held, ...this.servers.map((server) => server.held)]);
      this.show.step('analysis');
      this.show.progress(0.98);
      return await send(this.measurements(), signal);
    } finally {
      clearInterval(ticker);
      this.cleanup.forEach((clean) => clean());
    }
  }

  // upTo gives the seconds that something may take: `most`, less where a quick run would become a long one, and at least `least`. `after` is
  // what is still to come.
  upTo(most, least, after) {
    if (this.long) return most;
    const left = quick - judging - after - (performance.now() - this.began - (this.asked ?? 0)) / 1000;
    return Math.max(least, Math.min(most, left));
  }

  measurements() {
    const connection = { wifi: 'wifi', ethernet: 'ethernet', cellular: 'cellular' }[navigator.connection?.type] ?? '';
    const series = [...this.series].map(([id, { every, values }]) => ({ id, every, values: values.slice(0, 400) }));
    return { version: 1, hold: this.seconds, run: this.plan.run, mapped: this.mapped ?? '', connection, checks: this.checks, series };
  }

  // held is the gateway's own held request; it begins first of all.
  async held() {
    const measured = await this.timed(hold(heldPath(this.seconds), this.seconds, { own: true }, this.stop.signal));
    this.heldFor = performance.now();
    this.record('call-server:longpoll', measured);
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
    for (const [name, seconds] of Object.entries(this.steps)) {
      total += seconds;
      if (this.done.has(name)) spent += seconds;
      else if (this.running.has(name)) spent += Math.min(seconds * 0.95, (now - this.running.get(name)) / 1000);
    }
    const seconds = Math.min(this.seconds, (now - this.began) / 1000);
    const held = this.heldFor ? 1 : Math.min(0.99, seconds / this.seconds);
    this.show.progress(0.97 * Math.min(spent / total, held));
    this.show.hold(this.heldFor ? undefined : Math.floor(seconds), this.seconds);
    this.show.step(['bandwidth', 'media', 'relays', 'devices', 'signaling'].find((name) => this.running.has(name)) ?? 'hold');
  }

  // chart adds a value to a series of the report and to its picture.
  chart(id, every, value) {
    if (!(value >= 0 && value <= 1e7)) return; // what the gateway takes
    if (!this.series.has(id)) this.series.set(id, { every, values: [] });
    this.series.get(id).values.push(Math.round(value * 10) / 10);
    if (id === 'rtt') this.charts.rtt.add(value);
    else this.charts.bitrate.add(value, id === 'bitrate-up' ? 'up' : 'down');
  }

  // devices opens camera and microphone and looks at what they give.
  async devices(able) {
    const signal = this.stop.signal;
    if (!able) {
      for (const id of ['camera', 'microphone', 'speaker', 'echo']) this.record(id, { result: 'skipped', error: window.isSecureContext ? 'unsupported' : 'insecure' });
      return null;
    }
    const start = performance.now();
    const { stream, camera, microphone } = await openDevices(signal);
    this.asked = performance.now() - start; // the time that a person took to answer is theirs
    this.stream = stream ?? new MediaStream();
    this.cleanup.push(() => this.stream.getTracks().forEach((track) => track.stop()));
    const pick = new DevicePick((kind, id) => this.choose(kind, id));
    this.pick = pick;
    this.cleanup.push(() => pick.close());
    await pick.fill(this.stream);
    await Promise.all([this.camera(camera, start), this.microphone(microphone, start).then(() => this.speaker())]);
    return this.stream;
  }

  async camera({ error, detail }, start) {
    if (error || !this.stream.getVideoTracks().length) {
      this.record('camera', { result: 'fail', error: error ?? 'missing', detail, ms: performance.now() - start });
      return;
    }
    const video = await this.show.camera(this.stream);
    const { value, error: seen } = await measureCamera(video, this.stop.signal);
    const bad = seen === 'black' || seen === 'frozen';
    this.record('camera', { result: bad ? 'fail' : 'ok', value, error: seen, ms: performance.now() - start });
  }

  async microphone({ error, detail }, start) {
    this.meter?.stop();
    this.meter = undefined;
    if (error || !this.stream.getAudioTracks().length) {
      this.record('microphone', { result: 'fail', error: error ?? 'missing', detail, ms: performance.now() - start });
      return;
    }
    const meter = new LevelMeter(this.stream, this.show.level);
    openPlain(this.stream, this.stop.signal).then((plain) => meter.alsoHear(plain), () => {}); // a cancelled run needs none
    this.meter = meter;
    this.cleanup.push(() => meter.stop());
    await sleep(4000, this.stop.signal);
    const value = meter.loudest === undefined ? undefined : Math.round(meter.loudest);
    const said = value === undefined ? 'unmeasured' : meter.clipped ? 'clipping' : '';
    this.record('microphone', { result: 'ok', value, error: said, ms: performance.now() - start });
  }

  // speaker plays the tone. Where somebody is there they are asked whether it was heard; the run does not wait for them.
  async speaker() {
    const start = performance.now();
    const { played, level, loud } = await playTone(this.meter, this.pick.sink, this.stop.signal);
    const ms = performance.now() - start;
    if (level !== undefined) {
      const heard = level > 15 && loud > -70;
      this.record('echo', { result: 'ok', value: level, error: heard ? 'heard' : '', ms });
    } else {
      this.record('echo', { result: 'unknown', error: 'unmeasured', ms });
    }
    if (!played) this.record('speaker', { result: 'unknown', error: 'unmeasured', ms });
    else if (!this.asks) this.record('speaker', { result: 'ok', ms });
    else {
      this.record('speaker', { result: 'unknown', error: 'unanswered', ms });
      this.ask().catch(() => {});
    }
  }

  async ask() {
    const over = new AbortController();
    this.cleanup.push(() => {
      over.abort();
      hideHeard();
    });
    for (;;) {
      const answer = await askHeard(over.signal);
      if (answer === 'yes') return this.record('speaker', { result: 'ok' });
      if (answer === 'no') return this.record('speaker', { result: 'fail', error: 'not-heard' });
      await playTone(undefined, this.pick.sink, this.stop.signal);
    }
  }

  // choose changes a device while the test runs, and measures the new one.
  async choose(kind, id) {
    const start = performance.now();
    if (kind === 'speaker') return playTone(undefined, id, this.stop.signal).catch(() => {});
    const opened = await openOne(kind, id, this.stop.signal);
    const old = kind === 'camera' ? this.stream.getVideoTracks() : this.stream.getAudioTracks();
    for (const track of old) {
      track.stop();
      this.stream.removeTrack(track);
    }
    opened.stream?.getTracks().forEach((track) => this.stream.addTrack(track));
    await (kind === 'camera' ? this.camera(opened, start) : this.microphone(opened, start)).catch(() => {});
  }

  // signaling asks the gateway and every call server for what messages need.
  async signaling() {
    const signal = this.stop.signal;
    this.servers = this.plan.callServers.map((asked) => new CallServer(asked, this.plan, this.record.bind(this), signal));
    if (this.servers.length === 0) this.record('call-server:https', { result: 'skipped', error: 'no-probe' });
    await Promise.all([
      this.timed(echo(location.host, signal)).then((measured) => this.record('call-server:websocket', measured)),
      ...this.servers.map((server) => server.test(this.seconds)),
    ]);
  }

  // relays tries every way at once, and answers with those that work, the best first.
  async relays() {
    const signal = this.stop.signal;
    const found = typeof RTCPeerConnection === 'function'
      ? await relayURLs(signal).catch((error) => ({ problem: 'network', detail: error.name }))
      : { problem: 'unsupported' };
    const direct = typeof RTCPeerConnection === 'function' ? this.direct() : null;
    if (found.problem) {
      for (const kind of ['udp', 'tcp', 'tls']) this.record(`relay:${kind}`, { result: 'unknown', error: found.problem, detail: found.detail });
      await direct;
      return [];
    }
    for (const kind of ['udp', 'tcp', 'tls']) {
      if (!found.relays.some((relay) => relay.kind === kind)) this.record(`relay:${kind}`, { result: 'skipped', error: 'not-offered' });
    }
    const tried = await Promise.all([...found.relays.slice(0, 16).map(async (relay) => {
      const measured = await this.timed(tryRelay(relay, signal));
      this.record(`relay:${relay.kind}`, measured, relay.url);
      return { ...relay, ...measured };
    }), direct, this.addresses(found)]);
    const rank = ['udp', 'tls', 'tcp'];
    const open = tried.filter((relay) => relay?.result === 'ok').sort((a, b) => rank.indexOf(a.kind) - rank.indexOf(b.kind));
    this.compare(open);
    return open;
  }

  // direct tries the regions themselves, with credentials that nobody has: to be refused is to be reached.
  async direct() {
    await Promise.all(this.plan.relays.map(async ({ url }) => {
      const kind = /^turns:/.test(url) ? 'tls' : /transport=tcp/.test(url) ? 'tcp' : 'udp';
      const found = await (kind === 'tcp' ? reachOpenly : reach)({ urls: url, username: 'precall', credential: 'precall' }, this.stop.signal);
      this.record(`relay:${kind}`, { level: 'path', ...found }, url);
    }));
  }

  async addresses({ relays, account }) {
    const { mapped, six } = await addresses(relays, this.stop.signal);
    this.mapped = /^[0-9a-f.:]+$/i.test(mapped) ? mapped : '';
    if (!this.plan.ipv6) this.record('ipv6', { result: 'skipped', error: 'not-offered' });
    else {
      const found = await reach({ ...account, urls: this.plan.ipv6 }, this.stop.signal);
      if (found.result === 'ok' || six) this.record('ipv6', found);
      else this.record('ipv6', { result: 'skipped', error: 'no-ipv6' });
    }
  }

  // compare tells by how much the streams are slower than datagrams.
  compare(open) {
    const udp = open.find((relay) => relay.kind === 'udp');
    const streams = open.filter((relay) => relay.kind !== 'udp').map((relay) => relay.rtt);
    if (udp && streams.length) this.record('udp-vs-tcp', { result: 'ok', value: Math.round((Math.min(...streams) - udp.rtt) * 10) / 10 });
    else this.record('udp-vs-tcp', { result: 'skipped' });
  }

  // line measures the best way: at rest, with sound and picture, and under load.
  async line([best], devices) {
    const late = new Lateness();
    try {
      const probe = best && await this.step('media', () => this.media(best, devices));
      await this.step('bandwidth', () => this.bandwidth(probe));
      probe?.loop.close();
      for (const id of best ? [] : ['relay:media', 'rtt', 'jitter', 'loss', 'latency-under-load']) this.record(id, { result: 'skipped' });
    } finally {
      const value = late.stop();
      this.record('cpu', document.hidden || value === undefined ? { result: 'unknown', error: 'unmeasured' } : { result: 'ok', value });
    }
    this.record('jitter', this.found.jitter);
    this.record('loss', this.found.loss);
  }

  // media measures the line at rest and then loops sound and picture over it: through the cloud where that is allowed, else through
  // the gateway. It leaves the loop with which it measured open.
  async media(best, devices) {
    const signal = this.stop.signal;
    const cloud = this.plan.cloud && { ...best, server: { ...this.plan.cloud, urls: best.url } };
    let [way, level] = cloud ? [cloud, 'media'] : [best, 'gateway'];
    let loop = new Loop(way.server);
    const patience = 1000 * this.upTo(10, 6, 25);
    let problem = await loop.connect(patience, signal);
    if (problem && cloud) {
      this.record('relay:media', { result: 'fail', error: problem, level, detail: loop.said }, best.url);
      loop.close();
      [way, level] = [best, 'gateway'];
      loop = new Loop(way.server);
      problem = await loop.connect(patience, signal);
    }
    const rest = problem ? { times: [], lost: 0 } : await loop.ping(60, 40, signal);
    const rtt = rest.times.length ? median(rest.times) / 2 : best.rtt;
    this.record('rtt', { result: 'ok', level, value: Math.round(rtt * 10) / 10 });
    rest.times.forEach((time) => this.chart('rtt', 0.1, time / 2));
    const made = devices?.getVideoTracks().some((track) => track.readyState === 'live') ? null : standIn();
    if (made) this.cleanup.push(made.stop);
    const start = performance.now();
    const show = (kbits) => this.chart('bitrate-up', 1, kbits);
    const { media, loss, jitter } = await loopMedia(way, made?.stream ?? devices, Math.round(this.upTo(this.mediaSeconds, 5, 12)), show, signal);
    const ms = performance.now() - start;
    this.record('relay:media', { ...media, level, ms }, way === best && cloud ? '' : best.url);
    const known = (value) => (value === undefined ? { result: 'unknown', error: 'unmeasured' } : { result: 'ok', level, value, ms });
    this.found = { jitter: known(jitter), loss: known(loss), narrow: media.error === 'bandwidth' };
    return { loop, rest, rtt, level };
  }

  // bandwidth loads the line, down and then up, and watches what becomes of the round trip meanwhile.
  async bandwidth(probe) {
    const signal = this.stop.signal;
    this.found ??= { jitter: { result: 'skipped' }, loss: { result: 'skipped' } };
    const skipped = { result: 'unknown', error: 'unmeasured' };
    const loaded = async (work) => {
      const over = new AbortController();
      const pings = probe?.loop.ping(400, 50, AbortSignal.any ? AbortSignal.any([over.signal, signal]) : signal).catch(() => undefined);
      const times = () => probe?.loop.times ?? [];
      const before = times().length;
      let full = Infinity; // from which on the load is there
      const begun = setTimeout(() => { full = times().length; }, 1000);
      const measured = await this.timed(work());
      clearTimeout(begun);
      over.abort();
      const loadedTimes = times().slice(full);
      times().slice(before).filter((_, i) => i % 5 === 0).forEach((time) => this.chart('rtt', 0.1, time / 2));
      await pings;
      // A queue delays all; what delays only some is a page that is late itself.
      return { measured, added: loadedTimes.length > 5 ? Math.max(0, percentile(loadedTimes, 0.25) / 2 - probe.rtt) : undefined };
    };
    if (!this.plan.run) {
      for (const id of ['bandwidth-down', 'bandwidth-up', 'latency-under-load']) this.record(id, skipped);
      return;
    }
    const down = await loaded(() => loadDown(this.plan.run, Math.round(this.upTo(4, 2, 7)), (kbits) => this.chart('bitrate-down', 0.25, kbits), signal));
    this.record('bandwidth-down', down.measured);
    const up = await loaded(() => loadUp(this.plan.run, this.upTo(7, 2, 0), (kbits) => this.chart('bitrate-up', 1, kbits), signal));
    this.record('bandwidth-up', up.measured);
    const added = Math.max(down.added ?? -1, up.added ?? -1);
    if (probe) this.record('latency-under-load', added < 0 ? skipped : { result: 'ok', value: Math.round(added * 10) / 10 });
    this.restate(probe, Math.min(down.measured.value ?? Infinity, up.measured.value ?? Infinity));
  }

  // restate takes the loss from the small packets at rest where the line is so narrow that media themselves overflow it. Each ping
  // passed the line four times.
  restate(probe, kbits) {
    if (!probe || !(this.found.narrow || kbits < 400) || this.found.loss.result !== 'ok') return;
    const loss = (1 - (1 - probe.rest.lost) ** 0.25) * 100;
    this.found.loss = { ...this.found.loss, value: Math.round(Math.min(this.found.loss.value, loss) * 10) / 10 };
  }
}
