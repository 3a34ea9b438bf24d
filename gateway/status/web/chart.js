// A chart of the last five minutes: a line for each series, its value now beside its name. The pointer, or the arrow keys when it
// has the focus, read the values of one moment. What it shows is also its label, for who does not see it.

const svg = (name) => document.createElementNS('http://www.w3.org/2000/svg', name);
const width = 149; // 150 samples
const height = 60;

export class Chart {
  // format writes a value; words are {now, at, minutes}, the language's own.
  constructor(root, title, format, words) {
    Object.assign(this, { root, title, format, words, cursor: null, times: [], series: [] });
    this.top = document.createElement('p');
    this.top.className = 'scale';
    this.most = document.createElement('span');
    this.when = document.createElement('span');
    this.top.append(this.most, this.when);
    this.svg = svg('svg');
    this.svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.svg.setAttribute('preserveAspectRatio', 'none');
    this.svg.setAttribute('role', 'img');
    this.svg.setAttribute('tabindex', '0');
    this.svg.setAttribute('aria-label', title); // until there is something to sum up
    this.legend = document.createElement('ul');
    this.legend.className = 'legend';
    this.read = document.createElement('p');
    this.read.className = 'hushed';
    this.read.setAttribute('aria-live', 'polite');
    root.replaceChildren(this.top, this.svg, this.legend, this.read);
    this.svg.addEventListener('pointermove', (e) => this.point(e));
    this.svg.addEventListener('pointerleave', () => this.move(null));
    this.svg.addEventListener('blur', () => this.move(null));
    this.svg.addEventListener('keydown', (e) => this.key(e));
  }

  point(e) {
    const box = this.svg.getBoundingClientRect();
    const x = (e.clientX - box.left) / box.width * width;
    this.move(Math.round(x - (width + 1 - this.times.length)));
  }

  key(e) {
    const last = this.times.length - 1;
    const to = { ArrowLeft: (this.cursor ?? last) - 1, ArrowRight: (this.cursor ?? last) + 1, Home: 0, End: last, Escape: null }[e.key];
    if (to === undefined) return;
    e.preventDefault();
    this.move(to);
    this.read.textContent = this.summary();
  }

  move(to) {
    const last = this.times.length - 1;
    this.cursor = to === null || last < 0 ? null : Math.min(Math.max(to, 0), last);
    this.draw();
  }

  update(times, series) {
    if (this.cursor !== null && times.length === this.times.length) this.cursor = Math.max(0, this.cursor - 1); // it stays on its moment
    Object.assign(this, { times, series });
    this.draw();
  }

  at(s) {
    return s.values[this.cursor ?? this.times.length - 1];
  }

  value(s) {
    const v = this.at(s);
    return v === undefined || v === null ? '–' : this.format(v);
  }

  moment() {
    return this.cursor === null ? this.words.now : `${this.words.at} ${new Date(this.times[this.cursor]).toLocaleTimeString(document.documentElement.lang, { hourCycle: 'h23' })}`;
  }

  summary() {
    return `${this.title}, ${this.moment()}: ${this.series.map((s) => `${s.name} ${this.value(s)}`).join(', ')}`;
  }

  draw() {
    const all = this.series.flatMap((s) => s.values.filter((v) => v !== null && v !== undefined));
    const most = Math.max(this.least ?? 1, ...all);
    this.most.textContent = `${this.words.most} ${this.format(most)}`;
    this.when.textContent = this.cursor === null ? this.words.minutes : this.moment();
    const shapes = this.series.map((s) => this.line(s, most));
    if (this.cursor !== null) shapes.push(this.mark());
    this.svg.replaceChildren(...shapes);
    this.svg.setAttribute('aria-label', this.summary());
    this.legend.replaceChildren(...this.series.map((s) => this.entry(s)));
  }

  x(i) {
    return width + 1 - this.times.length + i;
  }

  line(s, most) {
    const path = svg('path');
    path.setAttribute('class', s.className);
    let d = '';
    let pen = 'M';
    s.values.forEach((v, i) => {
      if (v === null || v === undefined) {
        pen = 'M'; // a gap where nothing was measured
        return;
      }
      d += `${pen}${this.x(i)} ${(height - 1 - (height - 2) * v / most).toFixed(1)}`;
      pen = 'L';
    });
    path.setAttribute('d', d);
    return path;
  }

  mark() {
    const line = svg('line');
    for (const [k, v] of Object.entries({ x1: this.x(this.cursor), x2: this.x(this.cursor), y1: 0, y2: height })) line.setAttribute(k, v);
    return line;
  }

  entry(s) {
    const li = document.createElement('li');
    const key = document.createElement('span');
    key.className = `key ${s.className}`;
    const name = document.createElement('span');
    name.className = 'name';
    name.textContent = s.name;
    const value = document.createElement('strong');
    value.textContent = this.value(s);
    li.append(key, name, value);
    return li;
  }
}

// strip is the history of a state: a green, red or grey stretch for each.
export function strip(states, label) {
  const out = svg('svg');
  out.setAttribute('viewBox', '0 0 150 12');
  out.setAttribute('preserveAspectRatio', 'none');
  out.setAttribute('class', 'strip');
  out.setAttribute('role', 'img');
  out.setAttribute('aria-label', label);
  for (let i = 0; i < states.length;) {
    let end = i;
    while (end < states.length && states[end] === states[i]) end += 1;
    const rect = svg('rect');
    // A stretch that is down is full, one that is unknown low: never colour alone.
    const [y, h] = { up: [3, 6], down: [0, 12] }[states[i]] ?? [5, 2];
    for (const [k, v] of Object.entries({ x: 150 - states.length + i, y, width: end - i, height: h, class: states[i] ?? 'unknown' })) rect.setAttribute(k, v);
    out.append(rect);
    i = end;
  }
  return out;
}

// bar is how much of a limit is in use.
export function bar(share, className) {
  const out = document.createElement('div');
  out.className = `bar ${className}`;
  const s = svg('svg');
  s.setAttribute('viewBox', '0 0 100 8');
  s.setAttribute('preserveAspectRatio', 'none');
  s.setAttribute('aria-hidden', 'true');
  const rect = svg('rect');
  rect.setAttribute('width', String(Math.min(100, 100 * share)));
  rect.setAttribute('height', '8');
  s.append(rect);
  out.append(s);
  return out;
}
