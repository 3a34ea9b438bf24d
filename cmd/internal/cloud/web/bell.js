// A bell of two tones. Browsers let a page sound only after somebody has clicked in it.

export class Bell {
  constructor() {
    this.context = null;
    this.rung = 0;
  }

  get on() {
    return this.context?.state === 'running';
  }

  // enable is for a click; it resolves with whether the bell can sound now.
  async enable() {
    this.context ??= new AudioContext();
    await this.context.resume();
    return this.on;
  }

  async disable() {
    await this.context?.suspend();
  }

  ring() {
    this.rung++;
    if (!this.on) return;
    const now = this.context.currentTime;
    this.tone(880, now);
    this.tone(660, now + 0.35);
  }

  tone(pitch, at) {
    const oscillator = this.context.createOscillator();
    const volume = this.context.createGain();
    oscillator.frequency.value = pitch;
    volume.gain.setValueAtTime(0.0001, at);
    volume.gain.exponentialRampToValueAtTime(0.4, at + 0.02);
    volume.gain.exponentialRampToValueAtTime(0.0001, at + 0.9);
    oscillator.connect(volume).connect(this.context.destination);
    oscillator.start(at);
    oscillator.stop(at + 1);
  }
}
