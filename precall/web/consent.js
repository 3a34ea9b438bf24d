// What becomes of the measurements: they are always judged, and kept for the help desk only with consent.
import { lang } from './texts.js';

const box = document.getElementById('keep');
let measured = null;

// reportURL is where a report goes; it says whether the run may be kept, and in which language the answer is wanted.
export function reportURL() {
  return `/precall/report?${new URLSearchParams({ lang, keep: box.checked ? '1' : '0' })}`;
}

// remember holds what was sent, for somebody who consents afterwards. It leaves with the page.
export function remember(measurements) {
  measured = measurements;
}

// forget is for the next run.
export function forget() {
  measured = null;
}

// keepNow sends the same measurements once more, to be kept.
export async function keepNow() {
  const response = await fetch(`/precall/report?${new URLSearchParams({ lang, keep: '1' })}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ ...measured, clock: Date.now() }),
    signal: AbortSignal.timeout(12000),
  });
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  return response.json();
}
