// What getStats says, as one record: the way that media takes, and how well.

export class Way {
  // gateway says of an ICE URL whether it leads through the gateway.
  constructor(pc, gateway) {
    this.pc = pc;
    this.gateway = gateway;
    this.regions = new Map(); // relayed address → {region, label}
    this.last = null;
    this.rates = {};
  }

  // sample reads the statistics; rates are over the time since the last sample.
  async sample() {
    const stats = [...(await this.pc.getStats()).values()];
    const now = this.counters(stats);
    this.rate(now);
    const pair = this.selectedPair(stats);
    const record = { ...now, ...this.rates, connectionState: this.pc.connectionState, iceState: this.pc.iceConnectionState, pair };
    record.rtt = pair?.rtt ?? null;
    Object.assign(record, await this.where(pair));
    record.quality = quality(record);
    return record;
  }

  counters(stats) {
    const sum = (type, kind, field) =>
      stats.filter((s) => s.type === type && (!kind || s.kind === kind)).reduce((n, s) => n + (s[field] ?? 0), 0);
    const video = stats.find((s) => s.type === 'inbound-rtp' && s.kind === 'video') ?? {};
    const remote = stats.filter((s) => s.type === 'remote-inbound-rtp' && s.fractionLost !== undefined);
    return {
      time: performance.now(),
      framesDecoded: sum('inbound-rtp', 'video', 'framesDecoded'),
      framesSent: sum('outbound-rtp', 'video', 'framesSent'),
      frameWidth: video.frameWidth ?? 0,
      frameHeight: video.frameHeight ?? 0,
      framesPerSecond: video.framesPerSecond ?? 0,
      audioPacketsReceived: sum('inbound-rtp', 'audio', 'packetsReceived'),
      videoPacketsReceived: sum('inbound-rtp', 'video', 'packetsReceived'),
      totalAudioEnergy: sum('inbound-rtp', 'audio', 'totalAudioEnergy'),
      packetsReceived: sum('inbound-rtp', '', 'packetsReceived'),
      packetsLost: sum('inbound-rtp', '', 'packetsLost'),
      bytesReceived: sum('inbound-rtp', '', 'bytesReceived'),
      bytesSent: sum('outbound-rtp', '', 'bytesSent'),
      lossUp: remote.length ? Math.max(...remote.map((s) => s.fractionLost)) * 100 : null,
    };
  }

  rate(now) {
    const before = this.last;
    const seconds = before ? (now.time - before.time) / 1000 : 0;
    if (before && seconds < 0.4) return;
    if (before) {
      const lost = Math.max(0, now.packetsLost - before.packetsLost);
      const all = now.packetsReceived - before.packetsReceived + lost;
      this.rates = {
        kbpsUp: Math.max(0, ((now.bytesSent - before.bytesSent) * 8) / 1000 / seconds),
        kbpsDown: Math.max(0, ((now.bytesReceived - before.bytesReceived) * 8) / 1000 / seconds),
        lossDown: all > 0 ? (lost / all) * 100 : null,
      };
    }
    this.last = now;
  }

  // selectedPair is the candidate pair in use. Chromium names it in the transport, Firefox marks it.
  selectedPair(stats) {
    const byID = (id) => stats.find((s) => s.id === id);
    const transport = stats.find((s) => s.type === 'transport' && s.selectedCandidatePairId);
    const pair = transport
      ? byID(transport.selectedCandidatePairId)
      : stats.find((s) => s.type === 'candidate-pair' && (s.selected || (s.nominated && s.state === 'succeeded')));
    if (!pair) return null;
    const rtt = pair.currentRoundTripTime;
    return {
      local: candidate(byID(pair.localCandidateId)),
      remote: candidate(byID(pair.remoteCandidateId)),
      rtt: rtt === undefined ? null : rtt * 1000,
    };
  }

  // where names the region of a relayed way, which only the service knows.
  async where(pair) {
    const local = pair?.local;
    if (local?.candidateType !== 'relay') return { region: '', regionLabel: '', via: local ? 'direct' : '' };
    const address = (local.address?.includes(':') ? `[${local.address}]` : local.address) + `:${local.port}`;
    if (!this.regions.has(address)) this.regions.set(address, await askRegion(address));
    const { region, label } = this.regions.get(address);
    return { region, regionLabel: label, via: this.gateway(local.url) ? 'gateway' : 'relay' };
  }
}

async function askRegion(address) {
  try {
    const answer = await fetch(`/where?address=${encodeURIComponent(address)}`);
    if (answer.ok) return await answer.json();
  } catch {
    // The way works without its name.
  }
  return { region: '', label: '' };
}

function candidate(c) {
  if (!c) return null;
  const { candidateType, protocol, relayProtocol = '', url = '', address = '', port = 0 } = c;
  return { candidateType, protocol, relayProtocol: relayProtocol || '', url: url || '', address: address || '', port };
}

// quality: the thresholds of the precall test.
function quality({ rtt, lossDown, lossUp }) {
  if (rtt === null) return 'unknown';
  const loss = Math.max(lossDown ?? 0, lossUp ?? 0);
  if (rtt > 300 || loss > 5) return 'poor';
  return rtt > 200 || loss >= 1 ? 'fair' : 'good';
}
