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
