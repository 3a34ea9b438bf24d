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

// openDevices asks for both at once, so that a person is asked once; only when that fails for each alone, to learn which.
export async function openDevices(signal) {
  const video = { width: { ideal: 1280 }, height: { ideal: 720 } };
  const both = await open({ audio: true, video }, signal);
  if (both.stream) return { stream: both.stream, camera: {}, microphone: {} };
  if (both.error === 'dismissed') return { stream: null, camera: both, microphone: both };
  const microphone = await open({ audio: true }, signal);
  const camera = await open({ video }, signal);
  const tracks = [microphone, camera].flatMap((device) => device.stream?.getTracks() ?? []);
  return { stream: tracks.length ? new MediaStream(tracks) : null, camera, microphone };
}

// measureCamera counts the pictures that really come, for three seconds.
export async function measureCamera(video, signal) {
  if (!('requestVideoFrameCallback' in video)) return undefined;
  let frames = 0;
  let counting = true;
  const count = () => {
    frames += 1;
    if (counting) video.requestVideoFrameCallback(count);
  };
  video.requestVideoFrameCallback(count);
  for (let waited = 0; frames === 0 && waited < 3000; waited += 100) await sleep(100, signal);
  const before = frames;
  const start = performance.now();
  await sleep(3000, signal);
  counting = false;
  const seconds = (performance.now() - start) / 1000;
  return document.hidden ? undefined : Math.round(((frames - before) / seconds) * 10) / 10;
}

// LevelMeter listens to the microphone and keeps the loudest moment, in dBFS.
export class LevelMeter {
  constructor(stream, show) {
    this.loudest = undefined;
    this.context = new AudioContext();
    const analyser = this.context.createAnalyser();
    analyser.fftSize = 2048;
    this.context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    this.timer = setInterval(() => {
      if (this.context.state !== 'running') return;
      analyser.getFloatTimeDomainData(samples);
      let sum = 0;
      for (const s of samples) sum += s * s;
      const level = Math.max(-100, 10 * Math.log10(sum / samples.length || 1e-12));
      this.loudest = Math.max(this.loudest ?? -100, level);
      show(level);
    }, 60);
    // Without a click the browser may not let us listen; then there is no level, which is no fault of the microphone.
    this.context.resume().catch(() => {});
  }

  stop() {
    clearInterval(this.timer);
    this.context.close().catch(() => {});
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
  const tone = context.createOscillator();
  const out = context.createMediaStreamDestination();
  tone.connect(out);
  tone.start();
  stream.addTrack(out.stream.getAudioTracks()[0]);
  const stop = () => {
    clearInterval(draw);
    stream.getTracks().forEach((track) => track.stop());
    context.close().catch(() => {});
  };
  return { stream, stop };
}
