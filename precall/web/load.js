// How much the line carries, each way by itself, over HTTPS to the gateway.
import { mean, percentile, within } from './wait.js';

const every = 0.25; // seconds
const second = 1 / every; // windows
const enough = 10_000; // kbit/s: who carries as much carries many calls, and need not be loaded any longer
const most = 12_000; // what the gateway sends; more is not measured

// carried is the rate of a line that has got going, from windows of a quarter of a second. The first second is that of TCP's start. Of the
// seconds after it the better ones count: a line carries no more than it can, but a busy computer may read late.
export function carried(rates) {
  const steady = rates.length > 2 * second ? rates.slice(second) : rates;
  const seconds = steady.slice(second - 1).map((_, i) => mean(steady.slice(i, i + second)));
  return steady.length ? Math.round(percentile(seconds.length ? seconds : [mean(steady)], 0.75)) : undefined;
}

// sure tells whether the last second alone has shown that there is enough.
const sure = (rates) => rates.length >= 2 * second && rates.slice(-second).every((rate) => rate >= enough * 0.9);

// loadDown lets the gateway send for some seconds, or until it is clear that the line is wide. `show` gets each window's rate in kbit/s.
export async function loadDown(run, seconds, show, signal) {
  const stop = new AbortController();
  const abort = () => stop.abort();
  signal.addEventListener('abort', abort, { once: true });
  const rates = [];
  let [bytes, since, started] = [0, performance.now(), false];
  const tick = setInterval(() => {
    const now = performance.now();
    rates.push(Math.min(most, Math.round((bytes * 8) / (now - since))));
    [bytes, since] = [0, now];
    show(rates.at(-1));
    if (started && sure(rates)) stop.abort();
  }, every * 1000);
  try {
    const poured = (async () => {
      const response = await fetch(`/precall/load?run=${run}&s=${seconds}`, { cache: 'no-store', signal: stop.signal });
      if (!response.ok) return false;
      rates.length = 0;
      [bytes, since, started] = [0, performance.now(), true];
      for (const reader = response.body.getReader(); ;) {
        const { done, value } = await reader.read();
        if (done) return true;
        bytes += value.length;
      }
    })();
    // What is still on its way when the time is over need not be waited for.
    const ok = await within((seconds + 1) * 1000, poured, true, signal);
    return ok ? { result: 'ok', value: carried(rates) } : { result: 'unknown', error: 'refused' };
  } catch (error) {
    if (signal.aborted) throw error;
    return rates.length > second ? { result: 'ok', value: carried(rates) } : { result: 'unknown', error: 'network', detail: error.name };
  } finally {
    clearInterval(tick);
    signal.removeEventListener('abort', abort);
    stop.abort();
  }
}

// sizes of uploads: each one follows if the one before was over too soon to say much. So a narrow line never has much more in its queues than
// it sends in a few seconds, and a wide one is not kept busy: the next size says no more.
const sizes = [48, 192, 768, 3072].map((KiB) => KiB * 1024);

// loadUp sends, and asks the gateway what arrived.
export async function loadUp(run, seconds, show, signal) {
  const began = performance.now();
  const left = () => seconds * 1000 - (performance.now() - began);
  let answer;
  for (const size of sizes) {
    const start = performance.now();
    if (!await upload(run, size, Math.min(5000, left()), signal) && answer === undefined && performance.now() - start < 1000) {
      return { result: 'unknown', error: 'network' };
    }
    const took = performance.now() - start;
    answer = await arrived(run, signal) ?? answer;
    if (answer) show(rateOf(answer) ?? 0);
    if (took > 2000 || left() < 1500 || size >= 768 * 1024 && rateOf(answer) >= enough) break;
  }
  const value = rateOf(answer);
  return value === undefined ? { result: 'unknown', error: 'unmeasured' } : { result: 'ok', value };
}

// rateOf is what arrived, in kbit/s; undefined when it came too fast to say.
function rateOf(answer) {
  if (!answer?.ms) return undefined;
  return Math.min(most, answer.ms < 2000 ? Math.round((answer.bytes * 8) / answer.ms) : carried(answer.rates.slice(0, -1)));
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
