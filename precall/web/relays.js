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
  return relays.length ? { relays } : { problem: 'no-servers' };
}

// transport names the way of a TURN address (RFC 7065): turn: is UDP unless it says tcp, turns: is TLS over TCP.
function transport(url) {
  if (/^turns:/.test(url)) return /transport=udp/.test(url) ? '' : 'tls';
  if (/^turn:/.test(url)) return /transport=tcp/.test(url) ? 'tcp' : 'udp';
  return '';
}

// wordOf says what an icecandidateerror means: 701 is of the browser, the others are STUN error codes (RFC 8656, section 19).
function wordOf(code) {
  if (code === 701) return 'unreached';
  if (code === 401 || code === 403 || code === 441) return 'credentials';
  if (code === 486 || code === 508) return 'quota';
  return 'other';
}

// Loop is two ends of a call, both in this page, that reach each other over one relay only.
export class Loop {
  constructor(server, stream) {
    const config = { iceServers: [server], iceTransportPolicy: 'relay', bundlePolicy: 'max-bundle' };
    this.near = new RTCPeerConnection(config);
    this.far = new RTCPeerConnection(config);
    this.errors = [];
    this.candidates = 0;
    this.link(this.near, this.far);
    this.link(this.far, this.near);
    this.channel = this.near.createDataChannel('echo', { ordered: false, maxRetransmits: 0 });
    this.far.ondatachannel = ({ channel }) => { channel.onmessage = ({ data }) => channel.readyState === 'open' && channel.send(data); };
    stream?.getTracks().forEach((track) => this.near.addTrack(track, stream));
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

  // ping sends small packets around the loop and gives their times there and back.
  async ping(count, gap, signal) {
    const times = [];
    this.channel.onmessage = ({ data }) => times.push(performance.now() - Number(data));
    for (let i = 0; i < count; i += 1) {
      if (this.channel.readyState === 'open') this.channel.send(String(performance.now()));
      await sleep(gap, signal);
    }
    await sleep(200, signal);
    return times;
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
    const times = await loop.ping(15, 60, signal);
    if (times.length === 0) return { result: 'fail', error: 'no-packets' };
    return { result: 'ok', value, rtt: median(times) / 2 };
  } catch (error) {
    if (signal.aborted) throw error;
    return { result: 'fail', error: 'other', detail: error.name };
  } finally {
    loop.close();
  }
}

// loopMedia sends sound and picture around for ten seconds and measures what arrives.
export async function loopMedia({ server }, stream, signal) {
  const loop = new Loop(server, stream);
  try {
    const error = await loop.connect(10000, signal);
    if (error) return { media: { result: 'fail', error, detail: loop.said } };
    const samples = [];
    for (let i = 0; i < 10; i += 1) {
      await sleep(1000, signal);
      samples.push(await sample(loop));
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
  const s = { at: performance.now(), bytes: 0, lost: 0, received: 0, frames: 0, sound: 0, jitter: undefined, limited: false, available: undefined };
  (await loop.far.getStats()).forEach((report) => {
    if (report.type !== 'inbound-rtp') return;
    s.bytes += report.bytesReceived ?? 0;
    s.lost += Math.max(0, report.packetsLost ?? 0);
    s.received += report.packetsReceived ?? 0;
    if (report.kind === 'audio') {
      s.sound += report.packetsReceived ?? 0;
      s.jitter = (report.jitter ?? 0) * 1000;
    } else {
      s.frames += report.framesDecoded ?? 0;
    }
  });
  (await loop.near.getStats()).forEach((report) => {
    if (report.type === 'outbound-rtp' && report.kind === 'video') s.limited = report.qualityLimitationReason === 'bandwidth';
    if (report.type === 'candidate-pair' && report.availableOutgoingBitrate) s.available = report.availableOutgoingBitrate;
  });
  return s;
}

// judge takes the last eight seconds: what comes before is the start-up of encoders. A packet that is lost around the loop
// was lost up or down: each way loses about half.
function judge(samples, stream) {
  const [first, last] = [samples[1], samples[samples.length - 1]];
  const wants = { sound: stream.getAudioTracks().length > 0, picture: stream.getVideoTracks().length > 0 };
  if ((wants.picture && last.frames === 0 && last.sound === 0) || (wants.sound && !wants.picture && last.sound === 0)) {
    return { media: { result: 'fail', error: 'no-packets', detail: `${last.received} packets` } };
  }
  const seconds = (last.at - first.at) / 1000;
  const rate = ((last.bytes - first.bytes) * 8) / 1000 / seconds;
  const lost = last.lost - first.lost;
  const all = lost + last.received - first.received;
  const narrow = samples.slice(-4).every((s) => s.limited);
  const carries = narrow ? Math.max(rate, (last.available ?? 0) / 1000) : rate;
  return {
    media: { result: 'ok', value: Math.round(carries), error: narrow ? 'bandwidth' : '', detail: `${last.frames} pictures, ${last.sound} sound packets` },
    loss: all > 0 ? Math.round((1 - Math.sqrt(1 - lost / all)) * 1000) / 10 : undefined,
    jitter: wants.sound && last.sound > 0 ? Math.round(mean(samples.slice(1).map((s) => s.jitter ?? 0)) * 10) / 10 : undefined,
  };
}
