// What came of a run: one sentence, the causes, every check folded.
import { charts } from './charts.js';
import { has, lang, number, t } from './texts.js';

const $ = (id) => document.getElementById(id);
const signs = { pass: 'ok', warn: 'warn', fail: 'fail', unknown: 'none', skipped: 'none' };
const order = ['fail', 'warn', 'pass', 'unknown', 'skipped'];

// groups are the folds, and which checks are in each.
const groups = {
  device: (id) => ['browser', 'secure-context', 'camera', 'microphone', 'speaker', 'echo', 'cpu', 'clock'].includes(id),
  signaling: (id) => id.startsWith('call-server:'),
  relay: (id) => id.startsWith('relay:'),
  gateway: (id) => id.startsWith('gateway:'),
  quality: (id) => ['rtt', 'jitter', 'loss', 'mos', 'latency-under-load', 'udp-vs-tcp'].includes(id) || id.startsWith('bandwidth-'),
  network: () => true, // what is left: proxy, interception, address translation, IPv6
};

const groupOf = (id) => Object.keys(groups).find((name) => groups[name](id));

let shown = null;

const copyOf = (id) => $(id).content.firstElementChild.cloneNode(true);

export function showResult(answer) {
  shown = answer;
  const { report, sentence, network } = answer;
  const verdict = $('verdict');
  verdict.className = `verdict panel ${signs[report.verdict]}`;
  $('sentence').textContent = t(sentence);
  $('note').hidden = !has(`${sentence}.note`);
  $('note').textContent = t(`${sentence}.note`);
  $('code').textContent = report.code;
  verdict.querySelector('.code-line').hidden = !report.code;
  $('unkept').hidden = !!report.code || sentence === 'verdict.unsent';
  $('network').textContent = where(answer);
  showGate(answer);
  const figures = charts(report.series);
  $('charts').replaceChildren(...figures);
  $('charts-part').hidden = figures.length === 0;
  $('causes').replaceChildren(...report.causes.map((cause, i) => causeItem(cause, i, report.verdict)));
  $('causes-part').hidden = report.causes.length === 0;
  $('checks').replaceChildren(...Object.keys(groups).map((name) => group(name, report.checks, report.verdict)).filter(Boolean));
}

// where names the network that was tested: a patient's mobile data is not the hospital's Wi-Fi.
function where({ network, place, site }) {
  if (!network) return '';
  if (place === 'site') return t('result.network.site', { site, network });
  const mobile = navigator.connection?.type === 'cellular';
  if (place === 'outside') return mobile ? t('result.network.mobile', { network }) : t('result.network.outside', { network });
  return t('result.network', { network });
}

// showGate says what the house's rule makes of the run, and leads on to the call page that somebody came from.
function showGate({ gate, offer = [], report }) {
  $('gate').hidden = !has(`gate.${gate}`);
  $('gate').textContent = gate === 'block' && offer.includes('audio') ? t('gate.block.audio') : t(`gate.${gate}`);
  const back = $('precall').dataset.return;
  $('on').hidden = !back || !report.id;
  if (back && report.id) {
    const url = new URL(back);
    url.searchParams.set('precall', report.id);
    $('on').firstElementChild.href = url.href;
  }
}

function causeItem(cause, i, verdict) {
  const item = copyOf('cause');
  item.classList.add(verdict === 'fail' && i === 0 ? 'fail' : 'warn');
  item.querySelector('h3').textContent = t(`cause.${cause.id}.title`);
  item.querySelector('.sure').textContent = t('result.confidence', { percent: Math.round(cause.confidence * 100) });
  item.querySelector('.user').textContent = cause.advice.user;
  item.querySelector('.it').textContent = cause.advice.it;
  return item;
}

function group(name, all, whole) {
  const checks = all.filter((check) => groupOf(check.id) === name);
  if (checks.length === 0) return null;
  let worst = order.find((verdict) => checks.some((check) => check.verdict === verdict));
  if (worst === 'fail' && whole !== 'fail') worst = 'warn'; // one way of several: no fold is worse than the run
  const item = copyOf('group');
  item.classList.add(signs[worst]);
  item.querySelector('summary .name').textContent = t(`group.${name}`);
  item.querySelector('summary .signal').textContent = t(`word.${worst}`);
  item.querySelector('ul').append(...checks.map(row));
  return item;
}

// measured is a check's value with its unit, where it has any.
const measured = ({ value, unit }) => (value === undefined ? '' : `${number(value)} ${unit ?? ''}`.trim());

function row(check) {
  const item = copyOf('row');
  item.classList.add(signs[check.verdict]);
  item.querySelector('.name').textContent = t(`check.${check.id}`);
  item.querySelector('.target').textContent = check.target ?? '';
  item.querySelector('.detail').textContent = check.detail;
  item.querySelector('.number').textContent = measured(check);
  item.querySelector('.signal').textContent = t(`word.${check.verdict}`);
  // What was not tested proves nothing, however far it would have reached.
  item.querySelector('.reach').textContent = ['unknown', 'skipped'].includes(check.verdict) ? '' : t(`level.${check.level}`);
  return item;
}

// sayUnsent stands in for the gateway's answer when none came: what was measured is shown as it is.
export function sayUnsent(checks, error) {
  const verdicts = { ok: 'pass', fail: 'fail', unknown: 'unknown', skipped: 'skipped' };
  return {
    sentence: 'verdict.unsent',
    network: '',
    report: {
      version: 1, id: '', code: '', time: new Date().toISOString(), verdict: 'fail', causes: [],
      checks: checks.map(({ id, target, result, value, detail, ms }) => ({
        id, target, level: 'device', verdict: verdicts[result], value, unit: '', detail: detail ?? '', ms,
      })).concat({ id: 'call-server:https', target: location.hostname, level: 'gateway', verdict: 'fail', detail: error.message, ms: 0 }),
    },
  };
}

// asText is the result for a ticket or a mail.
function asText(answer) {
  const { report, sentence } = answer;
  const lines = [t(sentence), report.code ? `${t('result.code')}: ${report.code}` : '', where(answer), new Date(report.time).toLocaleString(lang)].filter(Boolean);
  lines.push('');
  for (const cause of report.causes) {
    lines.push(`${t(`cause.${cause.id}.title`)} (${t('result.confidence', { percent: Math.round(cause.confidence * 100) })})`);
    lines.push(`  ${t('result.user')}: ${cause.advice.user}`, `  ${t('result.it')}: ${cause.advice.it}`, '');
  }
  for (const check of report.checks) {
    const value = check.value === undefined ? '' : ` ${measured(check)}`;
    lines.push(`${t(`word.${check.verdict}`)}: ${t(`check.${check.id}`)}${check.target ? ` ${check.target}` : ''}${value}${check.detail ? ` – ${check.detail}` : ''}`);
  }
  return lines.join('\n');
}

$('copy').addEventListener('click', async () => {
  let said = 'result.copied';
  try {
    await navigator.clipboard.writeText(asText(shown));
  } catch {
    said = 'result.copy.failed';
  }
  $('copy').textContent = said === 'result.copied' ? t('result.copied') : t('result.copy.failed');
  $('said').textContent = $('copy').textContent;
  setTimeout(() => { $('copy').textContent = t('result.copy'); }, 2000);
});

$('json').addEventListener('click', () => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([JSON.stringify(shown.report, null, 2)], { type: 'application/json' }));
  link.download = `hafen-${shown.report.code || 'report'}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
});

// On paper nothing is folded, however the printing was begun.
window.addEventListener('beforeprint', () => {
  document.querySelectorAll('#result details').forEach((fold) => { fold.open = true; });
});
$('print').addEventListener('click', () => window.print());
