// The ways for sound and picture: TURN over UDP, TCP and TLS, each looped from this page to this page.
import { mean, median, sleep, within } from './wait.js';

// relayURLs asks the gateway for its test relay, and sorts its addresses by transport.
export async function relayURLs(signal) {
  const response = await within(10000, fetch('/api/v1/ice', { cache: 'no-store', signal }), null, signal);
  if (!response) return { problem: 'timeout' };
  if (!response.ok) return { problem: response.status === 429 ? 'refused' : 'no-servers', detail: `HTTP ${response.status}` };
  const { iceServers } = await response.json();
  const relays = [];
  for (const { urls, username, credential } of iceServers ?? []) {
    for (const url of [].concat(urls)) {
      const kind = transport(url);
      if (kind) relays.push({ kind, url, server: { urls: url, username, credential } });
    }
  }
  return relays.length ? { relays, account: relays[0].server } : { problem: 'no-servers' };
}

// transport names the way of a TURN address (RFC 7065): turn: is UDP unless it says tcp, turns: is TLS over TCP.
function transport(url) {
  if (/^turns:/.test(url)) return /transport=udp/.test(url) ? '' : 'tls';
  if (/^turn:/.test(url)) return /transport=tcp/.test(url) ? 'tcp' : 'udp';
  return '';
}

// reach asks a relay for an allocation. With throw-away credentials a refusal is as good an answer as any: it is there.
export async function reach(server, signal, patience = 15000) {
  const start = performance.now();
  const peer = new RTCPeerConnection({ iceServers: [server], iceTransportPolicy: 'relay' });
  const answered = new Promise((resolve) => {
    peer.onicecandidate = ({ candidate }) => candidate?.candidate && resolve({ result: 'ok' });
    peer.onicecandidateerror = ({ errorCode, errorText }) => {
      const detail = `${errorCode} ${errorText ?? ''}`.trim().slice(0, 200);
      resolve(errorCode === 701 ? { result: 'fail', error: silence(errorText ?? '', server.urls), detail } : { result: 'ok', detail });
    };
    peer.onicegatheringstatechange = () => {
      // A browser that does not tell why there is no candidate, says nothing about the way.
      if (peer.iceGatheringState === 'complete') setTimeout(() => resolve({ result: 'unknown', error: 'unmeasured' }), 100);
    };
  });
  try {
    peer.createDataChannel('x');
    await peer.setLocalDescription();
    const found = await within(patience, answered, { result: 'fail', error: 'timeout' }, signal);
    const ms = performance.now() - start;
    return found.result === 'ok' ? { ...found, value: Math.round(ms), ms } : { ...found, ms };
  } catch (error) {
    if (signal.aborted) throw error;
    return { result: 'unknown', error: 'other', detail: error.name };
  } finally {
    peer.close();
  }
}

// reachOpenly is reach for a way without TLS. Something that takes the connection and knows no TURN, as a captive portal does, keeps silent as a
// firewall would; but it can't keep silent to TLS, which then fails at once.
export async function reachOpenly(server, signal) {
  const knock = reach({ ...server, urls: server.urls.replace(/^turn:/, 'turns:') }, signal, 5000);
  const [found, knocked] = await Promise.all([reach(server, signal), knock]);
  return found.error === 'timeout' && knocked.error === 'unreached' ? { ...found, error: 'unanswered-turn' } : found;
}

// proxied tells whether somebody refuses at once to connect to an address that nobody has (RFC 5737): then a proxy is asked, or a firewall says
// no. What goes out directly is lost without an answer.
export async function proxied(signal) {
  const nobody = { urls: 'turn:192.0.2.1:443?transport=tcp', username: 'precall', credential: 'precall' };
  return (await reach(nobody, signal, 3000)).error === 'unreached';
}

// silence tells why nothing came, by the browser's own words where it has any: over TCP, a time-out of the Allocate means that the
// connection itself was made.
function silence(text, url) {
  if (/host lookup/i.test(text)) return 'dns';
  return transport(url) !== 'udp' && /allocate request timed out/i.test(text) ? 'unanswered-turn' : 'unreached';
}

// addresses are those under which this computer is known: by itself, and to the gateway's STUN.
export async function addresses(relays, signal) {
  const found = { mapped: '', six: false };
  const udp = relays.find((relay) => relay.kind === 'udp');
  const peer = new RTCPeerConnection({ iceServers: udp ? [{ urls: udp.url.replace(/^turn:/, 'stun:').replace(/\?.*/, '') }] : [] });
  const own = new Set();
  const gathered = new Promise((resolve) => {
    peer.onicecandidate = ({ candidate }) => {
      if (!candidate) return resolve();
      const { type, address } = candidate;
      if (type === 'srflx') found.mapped = address ?? '';
      if (type === 'host' && address?.includes(':') && !/^(fe80|::1)/i.test(address)) found.six = true;
      if (type === 'host' && /^[\d.]+$/.test(address ?? '')) own.add(address);
    };
  });
  try {
    peer.createDataChannel('x');
    await peer.setLocalDescription();
    await within(5000, gathered, null, signal);
  } catch (error) {
    if (signal.aborted) throw error;
  } finally {
    peer.close();
  }
  // What STUN tells is left out where it is the computer's own.
  if (!found.mapped && udp && own.size === 1) [found.mapped] = own;
  return found;
}

// wordOf says what an icecandidateerror means: 701 is of the browser, the others are STUN error codes (RFC 8656, section 19).
function wordOf(code) {
  if (code === 701) return 'unreached';
  if (code === 401 || code === 441) return 'credentials';
  if (code === 403) return 'forbidden';
  if (code === 486 || code === 508) return 'quota';
  return 'other';
}

// small makes a picture small enough that a slow computer's encoder is not what is measured: it is the way that is under test.
function small(track) {
  const { width } = track.getSettings();
  return track.kind === 'video' && width > 640 ? [{ scaleResolutionDownBy: width / 640 }] : [{}];
}

// Loop is two ends of a call, both in this page, that reach each other over one relay only.
export class Loop {
  constructor(server, stream) {
    this.times = []; // of pings, in milliseconds there and back around the loop
    this.sent = 0;
    const config = { iceServers: [server], iceTransportPolicy: 'relay', bundlePolicy: 'max-bundle' };
    this.near = new RTCPeerConnection(config);
    this.far = new RTCPeerConnection(config);
    this.errors = [];
    this.candidates = 0;
    this.link(this.near, this.far);
    this.link(this.far, this.near);
    this.channel = this.near.createDataChannel('echo', { ordered: false, maxRetransmits: 0 });
    this.channel.onmessage = ({ data }) => this.times.push(performance.now() - Number(data));
    this.far.ondatachannel = ({ channel }) => { channel.onmessage = ({ data }) => channel.readyState === 'open' && channel.send(data); };
    stream?.getTracks().forEach((track) => this.near.addTransceiver(track, { streams: [stream], direction: 'sendonly', sendEncodings: small(track) }));
  }

  link(from, to) {
    from.onicecandidate = ({ candidate }) => {
      if (!candidate?.candidate) return;
      this.candidates += 1;
      to.addIceCandidate(candidate).catch(() => {});
    };
    from.onicecandidateerror = ({ errorCode, errorText }) => this.errors.push({ code: errorCode, text: errorText ?? '' });
  }

  // connect resolves to '' when both ends see each other, else to what went wrong.
  async connect(ms, signal) {
    const opened = new Promise((resolve) => {
      this.channel.onopen = () => resolve('');
      // Both ends have looked everywhere and have no candidate: nothing will come any more.
      const check = () => {
        const over = this.near.iceGatheringState === 'complete' && this.far.iceGatheringState === 'complete';
        if (over && this.candidates === 0) resolve('unreached');
        if (this.near.connectionState === 'failed') resolve('no-packets');
      };
      for (const end of [this.near, this.far]) {
        end.onicegatheringstatechange = check;
        end.onconnectionstatechange = check;
      }
    });
    await this.near.setLocalDescription();
    await this.far.setRemoteDescription(this.near.localDescription);
    await this.far.setLocalDescription();
    await this.near.setRemoteDescription(this.far.localDescription);
    const word = await within(ms, opened, 'timeout', signal);
    if (!word) return '';
    if (this.candidates > 0) return 'no-packets';
    return this.errors.length ? wordOf(this.errors[0].code) : word;
  }

  get said() {
    const first = this.errors[0];
    return first ? `${first.code} ${first.text}`.trim().slice(0, 200) : '';
  }

  // ping sends small packets around the loop, so many or until told to stop, and gives their times there and back.
  async ping(count, gap, signal) {
    const from = this.times.length;
    const before = this.sent;
    for (let i = 0; i < count && !signal?.aborted; i += 1) {
      if (this.channel.readyState === 'open') {
        this.channel.send(String(performance.now()));
        this.sent += 1;
      }
      await sleep(gap, signal);
    }
    await sleep(250, signal);
    const times = this.times.slice(from);
    const sent = this.sent - before;
    return { times, lost: sent ? Math.max(0, 1 - times.length / sent) : 0 };
  }

  close() {
    this.near.close();
    this.far.close();
  }
}

// tryRelay proves one way with packets that went all around. Around the loop each packet passes the way to the gateway
// four times: the round trip to the gateway is half of it.
export async function tryRelay({ server }, signal) {
  const start = performance.now();
  const loop = new Loop(server);
  try {
    const error = await loop.connect(12000, signal);
    if (error) return { result: 'fail', error, detail: loop.said };
    const value = Math.round(performance.now() - start);
    const { times } = await loop.ping(15, 60, signal);
    if (times.length === 0) return { result: 'fail', error: 'no-packets' };
    return { result: 'ok', value, rtt: median(times) / 2 };
  } catch (error) {
    if (signal.aborted) throw error;
    return { result: 'fail', error: 'other', detail: error.name };
  } finally {
    loop.close();
  }
}

// loopMedia sends sound and picture around for ten seconds and measures what arrives. `show` gets the bitrate of each second.
export async function loopMedia({ server }, stream, seconds, show, signal) {
  const loop = new Loop(server, stream);
  try {
    const error = await loop.connect(10000, signal);
    if (error) return { media: { result: 'fail', error, detail: loop.said } };
    const samples = [];
    for (let i = 0; i < seconds; i += 1) {
      await sleep(1000, signal);
      samples.push(await sample(loop));
      const [last, now] = samples.slice(-2);
      if (now) show(Math.round(((now.bytes - last.bytes) * 8) / (now.at - last.at)));
    }
    return judge(samples, stream);
  } catch (error) {
    if (signal.aborted) throw error;
    return { media: { result: 'fail', error: 'other', detail: error.name } };
  } finally {
    loop.close();
  }
}

// sample reads the counters of both ends.
async function sample(loop) {
  const s = { at: performance.now(), bytes: 0, frames: 0, audio: { lost: 0, received: 0 }, video: { lost: 0, received: 0 }, jitter: undefined, limited: 'none', available: undefined };
  (await loop.far.getStats()).forEach((report) => {
    if (report.type !== 'inbound-rtp') return;
    s.bytes += report.bytesReceived ?? 0;
    s[report.kind].lost += Math.max(0, report.packetsLost ?? 0);
    s[report.kind].received += report.packetsReceived ?? 0;
    if (report.kind === 'audio') {
      s.jitter = (report.jitter ?? 0) * 1000;
    } else {
      s.frames += report.framesDecoded ?? 0;
    }
  });
  (await loop.near.getStats()).forEach((report) => {
    if (report.type === 'outbound-rtp' && report.kind === 'video') s.limited = report.qualityLimitationReason;
    if (report.type === 'candidate-pair' && report.availableOutgoingBitrate) s.available = report.availableOutgoingBitrate;
  });
  return s;
}

// judge takes the last eight seconds: what comes before is the start-up of encoders. A packet that is lost around the loop
// was lost up or down: each way loses about half. Sound tells how many: what a picture loses is sent again.
function judge(samples, stream) {
  const [first, last] = [samples[1], samples[samples.length - 1]];
  const wants = { sound: stream.getAudioTracks().length > 0, picture: stream.getVideoTracks().length > 0 };
  if ((wants.picture && last.frames === 0 && last.audio.received === 0) || (wants.sound && !wants.picture && last.audio.received === 0)) {
    return { media: { result: 'fail', error: 'no-packets', detail: `${last.audio.received + last.video.received} packets` } };
  }
  const seconds = (last.at - first.at) / 1000;
  const rate = ((last.bytes - first.bytes) * 8) / 1000 / seconds;
  const counted = wants.sound && last.audio.received > 0 ? 'audio' : 'video';
  const lost = Math.max(0, last[counted].lost - first[counted].lost); // what came late is no longer lost
  const all = lost + last[counted].received - first[counted].received;
  const held = (by) => samples.slice(-4).every((s) => s.limited === by);
  const carries = held('bandwidth') ? Math.max(rate, (last.available ?? 0) / 1000) : rate;
  const error = ['bandwidth', 'cpu'].find(held) ?? '';
  return {
    media: { result: 'ok', value: Math.round(carries), error, detail: `${last.frames} pictures, ${last.audio.received} sound packets` },
    loss: all > 0 ? tenth((1 - Math.sqrt(Math.max(0, 1 - lost / all))) * 100) : undefined,
    // Up and down are unsteady each for itself: variances add.
    jitter: wants.sound && last.audio.received > 0 ? tenth(mean(samples.slice(1).map((s) => s.jitter ?? 0)) / Math.SQRT2) : undefined,
  };
}

const tenth = (v) => Math.round(v * 10) / 10;
