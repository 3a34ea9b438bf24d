// The sentences of the page's language, which the server has put into it.

const words = JSON.parse(document.getElementById('words').textContent);

// t is the sentence of a key with {name} filled in from values.
export function t(key, values = {}) {
  const sentence = words[key];
  if (sentence === undefined) throw new Error(`no sentence for ${key}`);
  return sentence.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
}

// clock is a time of day as the reader writes it.
export function clock(time) {
  return new Date(time).toLocaleTimeString(document.documentElement.lang, { hour: '2-digit', minute: '2-digit' });
}

// number is a number as the reader writes it.
export function number(value, digits = 0) {
  return value.toLocaleString(document.documentElement.lang, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}
