// The small charts beside the picture while the test runs: the round trip and the bitrate.
import { number, t } from './texts.js';

const $ = (id) => document.getElementById(id);
const most = 160; // values

// LiveChart keeps a series, draws it as a line, and says its newest value in words.
class LiveChart {
  constructor(id, say, least) {
    Object.assign(this, { line: $(`${id}-line`), now: $(`${id}-now`), say, least });
    this.values = [];
    this.draw();
  }

  add(value, ...words) {
    if (!Number.isFinite(value)) return;
    this.values.push(value);
    if (this.values.length > most) this.values.shift();
    this.now.textContent = this.say(number(Math.round(value)), ...words);
    this.draw();
  }

  draw() {
    const top = Math.max(this.least, ...this.values) * 1.1;
    const step = 240 / Math.max(60, this.values.length);
    this.line.setAttribute('points', this.values.map((v, i) => `${(i * step).toFixed(1)},${(58 - (v / top) * 56).toFixed(1)}`).join(' '));
    if (!this.values.length) this.now.textContent = '';
  }
}

const ways = { up: (value) => t('chart.up', { value }), down: (value) => t('chart.down', { value }) };

// makeCharts makes both anew for a run.
export function makeCharts() {
  return {
    rtt: new LiveChart('live-rtt', (value) => t('chart.ms', { value }), 50),
    bitrate: new LiveChart('live-bitrate', (value, way) => ways[way](value), 500),
  };
}
