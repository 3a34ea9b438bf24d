// How much the line carries, each way by itself, over HTTPS to the gateway.
import { mean, within } from './wait.js';

const every = 0.25; // seconds

// settled is the rate of a line that has got going: the first second is that of TCP's start.
function settled(rates) {
  const steady = rates.length > 6 ? rates.slice(4, -1) : rates.length > 3 ? rates.slice(1, -1) : rates;
  return steady.length ? Math.round(mean(steady)) : undefined;
}

// loadDown lets the gateway send for some seconds. `show` gets each window's rate in kbit/s.
export async function loadDown(run, seconds, show, signal) {
  const stop = new AbortController();
  const abort = () => stop.abort();
  signal.addEventListener('abort', abort, { once: true });
  const rates = [];
  let bytes = 0;
  const tick = setInterval(() => {
    rates.push(Math.round((bytes * 8) / 1000 / every));
    show(rates.at(-1));
    bytes = 0;
  }, every * 1000);
  try {
    const poured = (async () => {
      const response = await fetch(`/precall/load?run=${run}&s=${seconds}`, { cache: 'no-store', signal: stop.signal });
      if (!response.ok) return false;
      rates.length = 0;
      for (const reader = response.body.getReader(); ;) {
        const { done, value } = await reader.read();
        if (done) return true;
        bytes += value.length;
      }
    })();
    // What is still on its way when the time is over need not be waited for.
    const ok = await within((seconds + 1) * 1000, poured, true, signal);
    return ok ? { result: 'ok', value: settled(rates) } : { result: 'unknown', error: 'refused' };
  } catch (error) {
    if (signal.aborted) throw error;
    return rates.length > 6 ? { result: 'ok', value: settled(rates) } : { result: 'unknown', error: 'network', detail: error.name };
  } finally {
    clearInterval(tick);
    signal.removeEventListener('abort', abort);
    stop.abort();
  }
}

// sizes of uploads: each one follows if the one before was over too soon to say much. So a narrow line never has much more in its queues than
// it sends in a few seconds.
const sizes = [48, 192, 768, 3072, 6144].map((KiB) => KiB * 1024);

// loadUp sends, and asks the gateway what arrived.
export async function loadUp(run, most, show, signal) {
  const began = performance.now();
  const left = () => most * 1000 - (performance.now() - began);
  let answer;
  for (const size of sizes) {
    const start = performance.now();
    if (!await upload(run, size, Math.min(5000, left()), signal) && answer === undefined && performance.now() - start < 1000) {
      return { result: 'unknown', error: 'network' };
    }
    const took = performance.now() - start;
    answer = await arrived(run, signal) ?? answer;
    if (answer) show(answer.rates.at(-1) ?? 0);
    if (took > 2000 || left() < 1500) break;
  }
  if (!answer?.ms) return { result: 'unknown', error: 'unmeasured' };
  return { result: 'ok', value: answer.ms < 1500 ? Math.round((answer.bytes * 8) / answer.ms) : settled(answer.rates) };
}

// upload is true when all was taken in time.
async function upload(run, size, ms, signal) {
  const stop = new AbortController();
  const abort = () => stop.abort();
  signal.addEventListener('abort', abort, { once: true });
  try {
    const sent = fetch(`/precall/load?run=${run}`, { method: 'POST', body: new Blob([new Uint8Array(size)]), signal: stop.signal });
    return (await within(Math.max(500, ms), sent, null, signal))?.ok ?? false;
  } catch (error) {
    if (signal.aborted) throw error;
    return false;
  } finally {
    signal.removeEventListener('abort', abort);
    stop.abort();
  }
}

async function arrived(run, signal) {
  try {
    const response = await within(6000, fetch(`/precall/load/arrived?run=${run}`, { cache: 'no-store', signal }), null, signal);
    return response?.ok ? await response.json() : undefined;
  } catch (error) {
    if (signal.aborted) throw error;
    return undefined;
  }
}
