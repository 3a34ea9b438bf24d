// Camera and microphone, or what stands in for them.

// openMedia resolves with {stream, state}: state is ok, audioOnly, videoOnly, or why there is no stream: denied,
// missing, inUse, insecure, unsupported. want: {video: "off"|"small"|"", fake: bool}.
export async function openMedia(want) {
  if (!('RTCPeerConnection' in window)) return { stream: null, state: 'unsupported' };
  if (want.fake) return { stream: fakeMedia(want), state: 'ok' };
  if (!navigator.mediaDevices?.getUserMedia) {
    return { stream: null, state: window.isSecureContext ? 'unsupported' : 'insecure' };
  }
  const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
  if (want.video === 'off') return attempt({ audio }, 'ok');
  const both = await attempt({ audio, video: pictureSize(want) }, 'ok');
  if (both.stream || both.state === 'denied') return both;
  // One of the two may be missing or taken; the other is enough to talk.
  const sound = await attempt({ audio }, 'audioOnly');
  if (sound.stream) return sound;
  const picture = await attempt({ video: pictureSize(want) }, 'videoOnly');
  return picture.stream ? picture : both;
}

function pictureSize(want) {
  return want.video === 'small'
    ? { width: { ideal: 320 }, height: { ideal: 240 }, frameRate: { ideal: 15 } }
    : { width: { ideal: 960 }, height: { ideal: 540 }, frameRate: { ideal: 30, max: 30 } };
}

async function attempt(constraints, state) {
  try {
    return { stream: await navigator.mediaDevices.getUserMedia(constraints), state };
  } catch (error) {
    return { stream: null, state: whyNot(error.name) };
  }
}

function whyNot(name) {
  switch (name) {
    case 'NotAllowedError':
    case 'SecurityError':
      return 'denied';
    case 'NotReadableError':
    case 'AbortError':
      return 'inUse';
    default:
      return 'missing'; // NotFoundError, OverconstrainedError
  }
}

// fakeMedia is a moving picture and a beeping tone, for machines without devices.
function fakeMedia(want) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = want.video === 'small' ? [320, 240] : [640, 360];
  const pen = canvas.getContext('2d');
  let frame = 0;
  const draw = () => {
    frame++;
    pen.fillStyle = `hsl(${(frame * 2) % 360} 45% 35%)`;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.fillStyle = '#fff';
    pen.font = `${canvas.height / 4}px sans-serif`;
    pen.fillText(String(frame), (frame * 3) % canvas.width, canvas.height / 2);
  };
  draw();
  setInterval(draw, 66);
  const tone = new AudioContext();
  const oscillator = tone.createOscillator();
  const volume = tone.createGain();
  const out = tone.createMediaStreamDestination();
  volume.gain.value = 0.2;
  oscillator.connect(volume).connect(out);
  oscillator.start();
  const tracks = [...out.stream.getAudioTracks()];
  if (want.video !== 'off') tracks.push(...canvas.captureStream(15).getVideoTracks());
  return new MediaStream(tracks);
}

// meter calls back with the microphone's level, 0 to 1, until the returned function is called.
export function meter(stream, show) {
  if (!stream?.getAudioTracks().length) return () => {};
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(new MediaStream(stream.getAudioTracks())).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const timer = setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    const rms = Math.sqrt(samples.reduce((sum, s) => sum + s * s, 0) / samples.length);
    // -60 dBFS is silence, -10 dBFS is loud.
    show(Math.min(1, Math.max(0, (20 * Math.log10(rms || 1e-6) + 60) / 50)));
  }, 100);
  return () => {
    clearInterval(timer);
    context.close();
  };
}
