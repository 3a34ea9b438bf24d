// Waiting that can be cancelled.

export class Cancelled extends Error {}

// sleep resolves after so many milliseconds; it rejects when the signal aborts.
export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(new Cancelled());
      return;
    }
    const stop = () => {
      clearTimeout(timer);
      reject(new Cancelled());
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, ms);
    signal?.addEventListener('abort', stop, { once: true });
  });
}

// within resolves as the promise does, or to `late` after so many milliseconds.
export async function within(ms, promise, late, signal) {
  const timer = new AbortController();
  const cancel = () => timer.abort();
  signal?.addEventListener('abort', cancel, { once: true });
  const timeout = sleep(ms, timer.signal).then(() => late, (error) => {
    if (signal?.aborted) throw error;
    return late;
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    timer.abort();
    signal?.removeEventListener('abort', cancel);
  }
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : undefined;
}

export function mean(values) {
  return values.length ? values.reduce((sum, v) => sum + v, 0) / values.length : undefined;
}

// percentile is the value below which so much of the values lies.
export function percentile(values, part) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] : undefined;
}

// Lateness watches how late this page's own clockwork runs: that of a computer that can't keep up, or of a tab that nobody sees.
export class Lateness {
  constructor() {
    this.late = [];
    let due = performance.now() + 100;
    this.timer = setInterval(() => {
      const now = performance.now();
      this.late.push(Math.max(0, now - due));
      due = now + 100;
    }, 100);
  }

  // stop gives the lateness that one in ten ticks exceeds, in milliseconds.
  stop() {
    clearInterval(this.timer);
    return this.late.length > 20 ? Math.round(percentile(this.late, 0.9)) : undefined;
  }
}
