// Browser, camera and microphone.
import { sleep, within } from './wait.js';

// browserChecks says what the browser can do at all.
export function browserChecks(record) {
  const secure = window.isSecureContext;
  record('secure-context', secure ? { result: 'ok' } : { result: 'fail', error: 'insecure' });
  const able = typeof RTCPeerConnection === 'function' && (!secure || !!navigator.mediaDevices?.getUserMedia) && typeof WebSocket === 'function';
  record('browser', { result: able ? 'ok' : 'fail', error: able ? '' : 'unsupported', detail: browserName() });
  return secure && able;
}

// browserName is product and version, not the whole user agent.
function browserName() {
  const brand = navigator.userAgentData?.brands?.find((b) => !/not.?a.?brand/i.test(b.brand) && b.brand !== 'Chromium') ??
    navigator.userAgentData?.brands?.find((b) => b.brand === 'Chromium');
  if (brand) return `${brand.brand} ${brand.version}`.slice(0, 60);
  const ua = navigator.userAgent;
  const found = /(Firefox|Edg|OPR|Chrome)\/(\d+)/.exec(ua) ?? /(Version)\/([\d.]+).*Safari/.exec(ua);
  return found ? `${found[1].replace('Version', 'Safari').replace('Edg', 'Edge')} ${found[2]}` : '';
}

const words = {
  NotAllowedError: 'denied', SecurityError: 'denied', PermissionDeniedError: 'denied',
  NotFoundError: 'missing', OverconstrainedError: 'missing', DevicesNotFoundError: 'missing',
  NotReadableError: 'in-use', AbortError: 'in-use', TrackStartError: 'in-use',
};

// open asks for what is in the constraints; it answers with a stream or the word for what went wrong. A person may take
// a while to answer the browser's question, but not for ever.
async function open(constraints, signal) {
  const asked = navigator.mediaDevices.getUserMedia(constraints).then(
    (stream) => ({ stream }),
    (error) => ({ error: words[error.name] ?? 'other', detail: error.name }),
  );
  const late = { error: 'dismissed' };
  const answer = await within(25000, asked, late, signal);
  if (answer === late) asked.then(({ stream }) => stream?.getTracks().forEach((track) => track.stop()));
  return answer;
}

const picture = { width: { ideal: 1280 }, height: { ideal: 720 } };

// openOne opens the device that was chosen from a list.
export function openOne(kind, deviceId, signal) {
  const chosen = { deviceId: { exact: deviceId } };
  return open(kind === 'camera' ? { video: { ...picture, ...chosen } } : { audio: chosen }, signal);
}

// openDevices asks for both at once, so that a person is asked once; only when that fails for each alone, to learn which.
export async function openDevices(signal) {
  const both = await open({ audio: true, video: picture }, signal);
  if (both.stream) return { stream: both.stream, camera: {}, microphone: {} };
  if (both.error === 'dismissed') return { stream: null, camera: both, microphone: both };
  const microphone = await open({ audio: true }, signal);
  const camera = await open({ video: picture }, signal);
  const tracks = [microphone, camera].flatMap((device) => device.stream?.getTracks() ?? []);
  return { stream: tracks.length ? new MediaStream(tracks) : null, camera, microphone };
}

// openPlain opens the same microphone without the browser's gain control, which hides that it is too loud. Where the browser has no such
// control, or does not answer soon, there is nothing: what is there is listened to as it is. Only Chromium is asked (it alone has
// userAgentData): others may ask the person again, or silence the first stream for the sake of the second.
export async function openPlain(stream, signal) {
  const { autoGainControl, deviceId } = stream.getAudioTracks()[0]?.getSettings() ?? {};
  if (!autoGainControl || !navigator.userAgentData) return null;
  const audio = { autoGainControl: false, noiseSuppression: false, echoCancellation: false };
  if (deviceId) audio.deviceId = { exact: deviceId };
  const asked = navigator.mediaDevices.getUserMedia({ audio }).catch(() => null);
  let plain;
  try {
    plain = await within(2000, asked, undefined, signal);
  } finally {
    if (!plain) asked.then((late) => late?.getTracks().forEach((track) => track.stop()));
  }
  return plain ?? null;
}

// The tests of a picture: darker than this on average (of 255), in more than a third of the pictures; or the same as the one before.
const dark = 20;
const tooMany = 1 / 3;

// measureCamera counts the pictures that really come, for three seconds, and looks at some of them.
export async function measureCamera(video, signal) {
  if (!('requestVideoFrameCallback' in video)) return { error: 'unmeasured' };
  const pen = new OffscreenCanvas(160, 120).getContext('2d', { willReadFrequently: true });
  let [frames, counting, looked, black, same, last, lookedAt, first] = [0, true, 0, 0, 0, null, 0];
  const look = (now) => {
    if (now - lookedAt < 120) return;
    lookedAt = now;
    pen.drawImage(video, 0, 0, 160, 120);
    const { data } = pen.getImageData(0, 0, 160, 120);
    let [luma, moved] = [0, false];
    for (let i = 0; i < data.length; i += 4) {
      luma += 0.2126 * data[i] + 0.7152 * data[i + 1] + 0.0722 * data[i + 2];
      moved ||= !last || data[i] !== last[i] || data[i + 1] !== last[i + 1];
    }
    looked += 1;
    if (luma / (data.length / 4) < dark) black += 1;
    if (!moved) same += 1;
    last = data;
  };
  const count = (now, { presentedFrames }) => {
    first ??= presentedFrames - 1;
    frames = presentedFrames - first; // those that came, also between two calls of this
    look(now);
    if (counting) video.requestVideoFrameCallback(count);
  };
  video.requestVideoFrameCallback(count);
  for (let waited = 0; frames === 0 && waited < 3000; waited += 100) await sleep(100, signal);
  const before = frames;
  const start = performance.now();
  await sleep(3000, signal);
  counting = false;
  if (document.hidden) return { error: 'unmeasured' };
  const value = Math.round((frames - before) / ((performance.now() - start) / 1000));
  if (frames === 0) return { value, error: 'frozen' };
  if (looked > 3 && black / looked > tooMany) return { value, error: 'black' };
  return { value, error: looked > 3 && same / looked > tooMany ? 'frozen' : '' };
}

// LevelMeter listens to the microphone and keeps the loudest moment, in dBFS, and whether it was too loud to be clean.
export class LevelMeter {
  constructor(stream, show) {
    this.loudest = undefined;
    this.clipped = false;
    this.context = new AudioContext();
    this.analyser = this.context.createAnalyser();
    this.analyser.fftSize = 4096;
    this.context.createMediaStreamSource(stream).connect(this.analyser);
    this.plain = this.context.createAnalyser();
    this.plain.fftSize = this.analyser.fftSize;
    const samples = new Float32Array(this.analyser.fftSize);
    const plain = new Float32Array(this.plain.fftSize);
    this.timer = setInterval(() => {
      if (this.context.state !== 'running') return;
      this.analyser.getFloatTimeDomainData(samples);
      this.plain.getFloatTimeDomainData(plain);
      this.clipped ||= clips(samples) || clips(plain);
      const sum = samples.reduce((all, s) => all + s * s, 0);
      const level = Math.max(-100, 10 * Math.log10(sum / samples.length || 1e-12));
      this.loudest = Math.max(this.loudest ?? -100, level);
      show(level);
    }, 60);
    // Without a click the browser may not let us listen; then there is no level, which is no fault of the microphone.
    this.context.resume().catch(() => {});
  }

  // alsoHear listens to the plain sound besides, in which it is heard better what is too loud; from then on it is the meter's to stop.
  alsoHear(stream) {
    this.plainStream = stream;
    if (this.stopped) this.stop();
    else if (stream) this.context.createMediaStreamSource(stream).connect(this.plain);
  }

  // hears is how loud a tone is now, in dB.
  hears(frequency) {
    const bins = new Float32Array(this.analyser.frequencyBinCount);
    this.analyser.getFloatFrequencyData(bins);
    return Math.max(-140, bins[Math.round((frequency * this.analyser.fftSize) / this.context.sampleRate)]);
  }

  stop() {
    this.stopped = true;
    clearInterval(this.timer);
    this.plainStream?.getTracks().forEach((track) => track.stop());
    this.context.close().catch(() => {});
  }
}

// clips reports whether more than six samples in a row are at the end of the scale.
function clips(samples) {
  let row = 0;
  return samples.some((s) => {
    row = Math.abs(s) > 0.985 ? row + 1 : 0;
    return row > 6;
  });
}

const tone = 1130; // Hz: no note of a voice stands still there

// playTone plays three short tones, and tells how much louder the microphone heard them than the silence between (undefined without a
// microphone) and whether they were really played.
export async function playTone(meter, sink, signal) {
  const context = new AudioContext();
  try {
    if (sink && context.setSinkId) await context.setSinkId(sink).catch(() => {});
    await within(1000, context.resume().catch(() => {}), null, signal);
    if (context.state !== 'running') return { played: false };
    const [source, volume, look] = [context.createOscillator(), context.createGain(), context.createAnalyser()];
    source.frequency.value = tone;
    volume.gain.value = 0;
    source.connect(volume).connect(look).connect(context.destination);
    source.start();
    const heard = { on: [], off: [] };
    const out = new Float32Array(look.fftSize);
    let played = 0;
    for (let i = 0; i < 6; i += 1) {
      const state = i % 2 ? 'off' : 'on';
      volume.gain.setTargetAtTime(i % 2 ? 0 : 0.2, context.currentTime, 0.01);
      await sleep(260, signal); // what is heard now is still of before
      look.getFloatTimeDomainData(out);
      played = Math.max(played, ...out.map(Math.abs));
      if (meter?.context.state === 'running') heard[state].push(meter.hears(tone));
      await sleep(140, signal);
    }
    const least = (list) => Math.min(...list);
    const most = (list) => Math.max(...list);
    return { played: played > 0.05, level: heard.on.length ? Math.round(least(heard.on) - most(heard.off)) : undefined, loud: least(heard.on) };
  } finally {
    context.close().catch(() => {});
  }
}

// standIn is a picture and a tone made here, for those who have no devices or gave none: the network is tested all the same.
export function standIn() {
  const canvas = document.createElement('canvas');
  canvas.width = 640;
  canvas.height = 360;
  const pen = canvas.getContext('2d');
  let tick = 0;
  const draw = setInterval(() => {
    tick += 1;
    for (let i = 0; i < 48; i += 1) {
      pen.fillStyle = `hsl(${(tick * 7 + i * 31) % 360} 60% ${30 + ((tick + i * 13) % 40)}%)`;
      pen.fillRect((i % 8) * 80, Math.floor(i / 8) * 60, 80, 60);
    }
  }, 40);
  const stream = canvas.captureStream(25);
  const context = new AudioContext();
  context.resume().catch(() => {});
  const hum = context.createOscillator();
  const out = context.createMediaStreamDestination();
  hum.connect(out);
  hum.start();
  stream.addTrack(out.stream.getAudioTracks()[0]);
  const stop = () => {
    clearInterval(draw);
    stream.getTracks().forEach((track) => track.stop());
    context.close().catch(() => {});
  };
  return { stream, stop };
}
