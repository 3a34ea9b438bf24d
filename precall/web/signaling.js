// The ways for messages: WebSocket, and a request that is held like a long-poll.
import { remember, reportURL } from './consent.js';
import { median, sleep, within } from './wait.js';

// echo opens a WebSocket and sends five messages to and fro; the value is the median round trip.
export async function echo(signal) {
  const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
  const socket = new WebSocket(`${scheme}//${location.host}/.well-known/hafen/ws`);
  const talk = new Promise((resolve) => {
    const times = [];
    let sent = 0;
    const send = () => {
      sent = performance.now();
      socket.send(`echo ${times.length}`);
    };
    socket.onopen = send;
    socket.onmessage = () => {
      times.push(performance.now() - sent);
      if (times.length < 5) send();
      else resolve({ result: 'ok', value: Math.round(median(times) * 10) / 10 });
    };
    let opened = false;
    socket.addEventListener('open', () => { opened = true; });
    socket.onclose = (event) => resolve({ result: 'fail', error: opened ? 'closed' : 'network', detail: `close code ${event.code}` });
  });
  try {
    return await within(10000, talk, { result: 'fail', error: 'timeout' }, signal);
  } finally {
    socket.onclose = null;
    socket.close();
  }
}

// hold asks the gateway to answer only after so many seconds, and finds out whether the line lives that long.
export async function hold(seconds, signal) {
  const stop = new AbortController();
  signal.addEventListener('abort', () => stop.abort(), { once: true });
  const start = performance.now();
  const after = () => Math.round((performance.now() - start) / 100) / 10;
  const asked = fetch(`/.well-known/hafen/hold?s=${seconds}`, { cache: 'no-store', signal: stop.signal }).then(
    async (response) => {
      await response.text();
      const took = after();
      if (response.status === 429) return { result: 'unknown', error: 'refused' };
      if (response.ok && took >= seconds - 1) return { result: 'ok', value: seconds };
      return { result: 'fail', error: 'cut', value: took, detail: `HTTP ${response.status}` };
    },
    (error) => {
      const took = after();
      return { result: 'fail', error: took < 1.5 ? 'network' : 'cut', value: took, detail: error.name };
    },
  );
  const answer = await within((seconds + 10) * 1000, asked, { result: 'fail', error: 'timeout', value: seconds + 10 }, signal);
  stop.abort();
  return answer;
}

// send posts the measurements. It tries again while a network that has just been shaken up comes back.
export async function send(measurements, signal) {
  let problem;
  remember(measurements);
  for (let attempt = 0; attempt < 4; attempt += 1) {
    if (attempt > 0) await sleep(2000, signal);
    try {
      const response = await fetch(reportURL(), {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ ...measurements, clock: Date.now() }),
        signal: AbortSignal.any ? AbortSignal.any([signal, AbortSignal.timeout(12000)]) : signal,
      });
      if (response.ok || response.status === 507) return await response.json(); // 507: judged, but there was no room to keep it
      problem = `HTTP ${response.status}: ${(await response.text()).trim()}`;
      if (response.status === 400 || response.status === 413) break; // it will not get better
    } catch (error) {
      problem = error.name;
    }
  }
  throw new Error(problem);
}
