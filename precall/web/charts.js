// Charts of what the line did while it was tested: small, with their unit, and in words for those who don't see them.
import { number, t } from './texts.js';

const space = 'http://www.w3.org/2000/svg';
const width = 320;
const height = 72;

function make(name, attributes, ...children) {
  const e = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  e.append(...children);
  return e;
}

const known = (values) => values.filter((v) => Number.isFinite(v));

// summary says in words what a series did.
function summary(line) {
  const sorted = known(line.values).sort((a, b) => a - b);
  return t('charts.summary', {
    name: line.name, unit: line.unit, low: number(sorted[0]), middle: number(sorted[Math.floor(sorted.length / 2)]), high: number(sorted.at(-1)),
  });
}

// points draws one line; where nothing was measured there is a gap.
function points(line, top, seconds) {
  let d = '';
  let gap = true;
  line.values.forEach((v, i) => {
    if (!Number.isFinite(v)) {
      gap = true;
      return;
    }
    const x = seconds > 0 ? (i * line.every * width) / seconds : 0;
    d += `${gap ? 'M' : 'L'}${x.toFixed(1)} ${(height - 2 - ((height - 6) * v) / top).toFixed(1)}`;
    gap = false;
  });
  return d;
}

// chart is one figure: lines over the same seconds, and a value to read under the pointer or with the arrow keys.
function chart(title, lines) {
  const seconds = Math.max(...lines.map((line) => (line.values.length - 1) * line.every), 0);
  const top = Math.max(...lines.flatMap((line) => known(line.values)), 1) * 1.1;
  const words = lines.map(summary).join(' ');
  const cursor = make('line', { class: 'cursor', y1: 0, y2: height, x1: -9, x2: -9 });
  const svg = make('svg', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': words, tabindex: 0 },
    make('path', { class: 'base', d: `M0 ${height - 1}H${width}` }),
    ...lines.map((line, i) => make('path', { class: `line${i}`, d: points(line, top, seconds) })), cursor);
  const caption = document.createElement('figcaption');
  caption.textContent = title;
  const read = document.createElement('p');
  read.className = 'small';
  read.textContent = words;
  let at = -1;
  const show = (second) => {
    at = Math.min(seconds, Math.max(0, second));
    cursor.setAttribute('x1', (at * width) / (seconds || 1));
    cursor.setAttribute('x2', (at * width) / (seconds || 1));
    read.textContent = `${t('charts.at', { seconds: number(at) })} ${lines.map((line) => {
      const v = line.values[Math.round(at / line.every)];
      return Number.isFinite(v) ? `${line.name} ${number(v)} ${line.unit}` : '';
    }).filter(Boolean).join(', ')}`;
  };
  const rest = () => {
    at = -1;
    cursor.setAttribute('x1', -9);
    cursor.setAttribute('x2', -9);
    read.textContent = words;
  };
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * seconds);
  });
  svg.addEventListener('pointerleave', rest);
  svg.addEventListener('blur', rest);
  svg.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show((at < 0 ? 0 : at) + step * lines[0].every);
  });
  const figure = document.createElement('figure');
  figure.append(caption, svg, read);
  return figure;
}

// charts are the figures that a report's series give; none where nothing was measured.
export function charts(series = []) {
  const line = (id, name, unit) => {
    const found = series.find((s) => s.id === id);
    return found && known(found.values).length > 1 ? [{ ...found, name, unit }] : [];
  };
  const rtt = line('rtt', t('check.rtt'), 'ms');
  const rate = [...line('bitrate-up', t('charts.up'), 'kbit/s'), ...line('bitrate-down', t('charts.down'), 'kbit/s')];
  return [[t('charts.rtt'), rtt], [t('charts.rate'), rate]].filter(([, lines]) => lines.length).map(([title, lines]) => chart(title, lines));
}
