// The media connection to the one other person: perfect negotiation (both may offer at any time; on a collision the
// polite one yields), trickled candidates, and ICE restarts when the way breaks. Restarts are offered by the impolite one
// alone, and the other asks for them: both notice a broken way at the same time, and a restart that is rolled back has left
// Chromium connected and silent in one direction.

const patience = 2000; // how long "disconnected" may last
const nextTry = 8000; // when a restart has not helped
const atLeast = 2000; // between two restarts: without any relay, "failed" comes at once
const maxErrors = 50;

export class Link {
  // polite: yields on a collision. stream: ours, or null. ice: () => Promise<RTCConfiguration>. send: to the other
  // person. onstate(state) with connecting, connected or restarting; onstream(stream) with theirs.
  constructor({ polite, stream, config, ice, send, onstate, onstream }) {
    Object.assign(this, { polite, ice, send, onstate });
    this.restarts = 0;
    this.errors = []; // icecandidateerror events: {url, code, text}
    this.queue = Promise.resolve();
    const pc = (this.pc = new RTCPeerConnection(config));
    pc.onnegotiationneeded = () => this.offer();
    pc.onicecandidate = ({ candidate }) => this.send({ candidate: candidate?.toJSON() ?? null });
    pc.onicecandidateerror = ({ url, errorCode, errorText }) => {
      if (this.errors.length < maxErrors) this.errors.push({ url, code: errorCode, text: errorText });
    };
    pc.onconnectionstatechange = () => this.follow();
    const theirs = new MediaStream();
    pc.ontrack = ({ track }) => {
      theirs.addTrack(track);
      onstream(theirs);
    };
    this.addMedia(stream);
    onstate('connecting');
  }

  addMedia(stream) {
    for (const kind of ['audio', 'video']) {
      const track = stream?.getTracks().find((t) => t.kind === kind);
      if (track) this.pc.addTrack(track, stream);
      else this.pc.addTransceiver(kind, { direction: 'recvonly' });
    }
  }

  async offer() {
    try {
      this.offering = true;
      await this.pc.setLocalDescription();
      this.send({ description: this.pc.localDescription.toJSON() });
    } catch (error) {
      this.complain('offer', error);
    } finally {
      this.offering = false;
    }
  }

  // receive takes what the other side's link sent, in order.
  receive(data) {
    this.queue = this.queue.then(() => this.take(data)).catch((error) => this.complain('receive', error));
  }

  async take({ description, candidate, restart }) {
    if (this.closed) return;
    if (restart) return this.restart('asked');
    if (description) return this.describe(description);
    try {
      await this.pc.addIceCandidate(candidate ?? undefined);
    } catch (error) {
      if (!this.ignoring) throw error;
    }
  }

  async describe(description) {
    const isOffer = description.type === 'offer';
    // First, because nothing may come between the look for a collision and the description: when both sides restart at
    // the same time, an offer of ours can be made while the servers are fetched.
    if (isOffer && this.isRestart(description)) await this.refresh();
    const collision = isOffer && (this.offering || this.pc.signalingState !== 'stable');
    this.ignoring = collision && !this.polite;
    if (this.ignoring) return;
    await this.pc.setRemoteDescription(description);
    if (!isOffer) return;
    await this.pc.setLocalDescription();
    this.send({ description: this.pc.localDescription.toJSON() });
  }

  // isRestart: the other side looks for a new way, so we gather anew as well, at relays that are alive now.
  isRestart(description) {
    const fragment = (sdp) => /a=ice-ufrag:(\S+)/.exec(sdp ?? '')?.[1];
    const known = fragment(this.pc.remoteDescription?.sdp);
    return known !== undefined && known !== fragment(description.sdp);
  }

  // refresh fetches ICE servers and credentials of now; the old ones do if that fails.
  async refresh() {
    try {
      this.pc.setConfiguration(await this.ice());
    } catch (error) {
      this.complain('ice', error);
    }
  }

  follow() {
    clearTimeout(this.timer);
    switch (this.pc.connectionState) {
      case 'connected':
        this.onstate('connected');
        break;
      case 'disconnected':
        this.timer = setTimeout(() => this.restart('disconnected'), patience + this.manners());
        break;
      case 'failed':
        this.restart('failed');
        break;
      case 'connecting':
        if (this.restarts > 0) this.retryLater();
        break;
    }
  }

  // restart looks for a new way, and again until there is one.
  async restart(why) {
    if (this.closed || this.restarting) return;
    const early = atLeast - (Date.now() - (this.restarted ?? 0));
    if (early > 0) {
      if (why === 'asked') return; // it is under way
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.restart(why), early);
      return;
    }
    this.restarting = true;
    this.restarted = Date.now();
    this.restarts++;
    this.onstate('restarting', why);
    if (this.polite) {
      this.restarting = false;
      this.send({ restart: true });
      return this.retryLater();
    }
    await this.refresh();
    this.restarting = false;
    if (this.closed || this.pc.connectionState === 'closed') return;
    this.pc.restartIce();
    this.retryLater();
  }

  retryLater() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.pc.connectionState !== 'connected' && this.restart('again'), nextTry + this.manners());
  }

  // manners lets the impolite side go first: both notice at the same time.
  manners() {
    return this.polite ? 1000 : 0;
  }

  complain(where, error) {
    if (!this.closed) console.warn(where, error);
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.pc.close();
  }
}
