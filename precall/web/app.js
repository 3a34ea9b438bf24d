// The page: starts a run, shows how far it is and what came of it.
import { Cancelled } from './wait.js';
import { Run } from './run.js';
import { forget, keepNow } from './consent.js';
import { showResult, sayUnsent } from './result.js';
import { t } from './texts.js';

const $ = (id) => document.getElementById(id);
const root = document.documentElement;
let current = null;

function only(name) {
  for (const id of ['intro', 'run', 'result']) $(id).hidden = id !== name;
}

// signs are the marks of what a check came to, before anybody has judged it.
const signs = { ok: ['ok', 'word.pass'], fail: ['fail', 'word.fail'], unknown: ['none', 'word.unknown'], skipped: ['none', 'word.skipped'] };

// show is what a run tells the page.
const show = {
  progress(fraction) {
    const bar = $('progress');
    bar.value = Math.max(bar.value, Math.round(fraction * 1000) / 10); // it never goes back
  },
  step(name) {
    const text = t(`step.${name === 'hold' ? 'waiting' : name}`);
    if ($('now').textContent !== text) $('now').textContent = text; // announced only when it changes
  },
  hold(done, seconds) {
    $('hold').textContent = done === undefined ? '' : t('step.hold', { done, seconds });
  },
  check({ id, target, result }) {
    const item = $('step').content.firstElementChild.cloneNode(true);
    const [sign, word] = signs[result];
    item.className = sign;
    item.querySelector('.name').textContent = t(`check.${id}`) + (target ? ` · ${target.replace(/^turns?:/, '').replace(/\?.*/, '')}` : '');
    item.querySelector('.signal').textContent = t(word);
    $('steps').append(item);
  },
  async camera(stream) {
    const video = $('camera');
    video.srcObject = stream;
    await video.play().catch(() => {});
    $('waiting').hidden = true;
    return video;
  },
  level(dBFS) {
    $('level').value = Math.min(60, Math.max(0, dBFS + 60));
  },
};

async function start(seconds, automatic = false) {
  for (const name of ['data-precall', 'data-verdict', 'data-code']) root.removeAttribute(name);
  root.dataset.precall = 'running';
  const began = performance.now();
  delete window.hafenReport;
  forget();
  $('cancelled').textContent = '';
  $('steps').replaceChildren();
  $('progress').value = 0;
  $('waiting').hidden = false;
  only('run');
  $('run').querySelector('h1').focus({ preventScroll: true });
  current = new Run(seconds, show, { asks: !automatic });
  try {
    const answer = await current.start();
    performance.measure('precall', { start: began }); // how long it took, for whoever looks at the page from outside
    finish(answer);
  } catch (error) {
    if (error instanceof Cancelled || current.stop.signal.aborted) {
      delete root.dataset.precall;
      only('intro');
      $('cancelled').textContent = t('error.cancelled');
      $('start').focus();
    } else {
      finish(sayUnsent(current.checks, error));
    }
  } finally {
    $('camera').srcObject = null;
    current = null;
  }
}

function finish(answer) {
  const { report } = answer;
  $('progress').value = 100;
  showResult(answer);
  only('result');
  $('said').textContent = '';
  $('sentence').focus({ preventScroll: true });
  window.scrollTo(0, 0);
  publish(report);
  root.dataset.precall = 'done'; // last: who waits for it finds the rest in place
}

// publish tells machines what came of the run.
function publish(report) {
  window.hafenReport = report;
  root.dataset.verdict = report.verdict;
  root.dataset.code = report.code;
}

// Who consents only when the result is there gets a code for it then.
$('send').addEventListener('click', async () => {
  $('send').disabled = true;
  try {
    const answer = await keepNow();
    showResult(answer);
    publish(answer.report);
    $('said').textContent = t('result.sent', { code: answer.report.code });
    $('sentence').focus({ preventScroll: true });
  } catch {
    $('said').textContent = t('result.send.failed');
    $('send').textContent = t('result.send.failed');
  }
  $('send').disabled = false;
});

$('start').addEventListener('click', () => start(45));
$('long').addEventListener('click', () => start(180));
$('again').addEventListener('click', () => start(45));
$('cancel').addEventListener('click', () => current?.cancel());

// ?autorun=1 begins at once, ?autorun=long with the long hold; &hold=5 shortens what is held, for tests of the test.
const query = new URLSearchParams(location.search);
if (query.has('autorun') && query.get('autorun') !== '0') {
  const asked = Number.parseInt(query.get('hold') ?? '', 10);
  start(asked >= 1 && asked <= 180 ? asked : query.get('autorun') === 'long' ? 180 : 45, true);
}
