// Choosing camera, microphone and loudspeaker while the test runs, and the question whether the tone was heard.
import { t } from './texts.js';

const kinds = { camera: 'videoinput', microphone: 'audioinput', speaker: 'audiooutput' };
const $ = (id) => document.getElementById(id);

// DevicePick fills the lists; `change` hears of a choice: the kind and the device's id.
export class DevicePick {
  constructor(change) {
    this.change = change;
    this.stop = new AbortController();
    for (const kind of Object.keys(kinds)) {
      $(`pick-${kind}`).addEventListener('change', (event) => change(kind, event.target.value), { signal: this.stop.signal });
    }
    navigator.mediaDevices?.addEventListener?.('devicechange', () => this.fill(), { signal: this.stop.signal });
  }

  // fill shows what there is, once the browser tells. A list of one is no choice.
  async fill(stream) {
    if (stream) this.stream = stream;
    const all = await navigator.mediaDevices?.enumerateDevices?.().catch(() => []) ?? [];
    const now = new Set(this.stream?.getTracks().map((track) => track.getSettings().deviceId));
    for (const [kind, type] of Object.entries(kinds)) {
      const list = all.filter((device) => device.kind === type && device.deviceId);
      $(`choice-${kind}`).hidden = list.length < 2;
      $(`pick-${kind}`).replaceChildren(...list.map((device, i) => {
        const option = new Option(device.label || t('device.unnamed', { kind: t(`device.${kind}`), number: i + 1 }), device.deviceId);
        option.selected = now.has(device.deviceId);
        return option;
      }));
    }
  }

  get sink() {
    return $('pick-speaker').value;
  }

  close() {
    this.stop.abort();
    for (const kind of Object.keys(kinds)) $(`choice-${kind}`).hidden = true;
  }
}

// askHeard shows the question and resolves to 'yes', 'no' or 'again'; it never resolves when nobody answers.
export function askHeard(signal) {
  const question = $('heard');
  question.hidden = false;
  return new Promise((resolve) => {
    for (const answer of ['yes', 'no', 'again']) {
      $(`heard-${answer}`).addEventListener('click', () => {
        question.hidden = answer !== 'again';
        resolve(answer);
      }, { once: true, signal });
    }
  });
}

export function hideHeard() {
  $('heard').hidden = true;
}
