// One end of TestNarrowCall's call: relays only, no signaling of its own (the test carries descriptions from page to page).
var narrow = (() => {
  let pc;
  let broken = 0; // how often the connection left "connected"
  let was = '';
  const sinceNTP = 2208988800000; // ms from 1900, where NTP begins, to 1970

  async function start(server) {
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const stream = await navigator.mediaDevices.getUserMedia({ audio, video: { width: 640, height: 360, frameRate: 30 } });
    pc = new RTCPeerConnection({ iceServers: [server], iceTransportPolicy: 'relay' });
    pc.onconnectionstatechange = () => {
      if (was === 'connected' && pc.connectionState !== 'closed') broken++;
      was = pc.connectionState;
    };
    pc.ontrack = ({ track }) => {
      const player = document.createElement(track.kind);
      player.autoplay = true;
      player.srcObject = new MediaStream([track]);
      document.body.prepend(player);
    };
    for (const track of stream.getTracks()) pc.addTrack(track, stream);
  }

  async function described(description) {
    await pc.setLocalDescription(description);
    while (pc.iceGatheringState !== 'complete') await new Promise((done) => setTimeout(done, 50));
    return pc.localDescription;
  }

  // Who offers sends 1.5 Mbit/s of video, who answers a small picture.
  async function limit(bits) {
    const sender = pc.getSenders().find((s) => s.track.kind === 'video');
    const wanted = sender.getParameters();
    for (const encoding of wanted.encodings) encoding.maxBitrate = bits;
    await sender.setParameters(wanted);
  }

  const offer = async () => described(await pc.createOffer());

  async function answer(description) {
    await pc.setRemoteDescription(description);
    const mine = await described(await pc.createAnswer());
    await limit(100_000);
    return mine;
  }

  async function accept(description) {
    await pc.setRemoteDescription(description);
    await limit(1_500_000);
  }

  async function list() {
    return [...(await pc.getStats()).values()];
  }

  async function received() {
    const stats = await list();
    const of = (kind) => stats.find((s) => s.type === 'inbound-rtp' && s.kind === kind) ?? {};
    const [audio, video] = [of('audio'), of('video')];
    const playedAt = audio.estimatedPlayoutTimestamp; // when what is heard now was said, by the other end's clock, which is ours
    return {
      Broken: broken,
      AudioPackets: audio.packetsReceived, AudioLost: audio.packetsLost, AudioEnergy: audio.totalAudioEnergy,
      Samples: audio.totalSamplesReceived, Concealed: audio.concealedSamples - audio.silentConcealedSamples,
      AudioBuffer: audio.jitterBufferDelay, AudioEmitted: audio.jitterBufferEmittedCount,
      VideoBuffer: video.jitterBufferDelay, VideoEmitted: video.jitterBufferEmittedCount,
      Freezes: video.freezeCount, Frozen: video.totalFreezesDuration, Decoded: video.framesDecoded,
      Nacks: video.nackCount, Plis: video.pliCount, Keys: video.keyFramesDecoded,
      VideoPackets: video.packetsReceived, VideoLost: video.packetsLost, VideoBytes: video.bytesReceived,
      Ear: playedAt ? audio.timestamp - (playedAt - sinceNTP) : 0,
    };
  }

  async function sent() {
    const stats = await list();
    const pair = stats.find((s) => s.type === 'candidate-pair' && s.nominated && s.state === 'succeeded') ?? {};
    const video = stats.find((s) => s.type === 'outbound-rtp' && s.kind === 'video') ?? {};
    return {
      SenderBroken: broken, Estimate: pair.availableOutgoingBitrate ?? 0, RTT: pair.currentRoundTripTime ?? 0,
      SentBytes: video.bytesSent, Width: video.frameWidth ?? 0,
    };
  }

  return { start, offer, answer, accept, received, sent, state: () => pc?.connectionState, close: () => pc.close() };
})();
