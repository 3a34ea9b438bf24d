// The page's messages in the language it came in.
const messages = JSON.parse(document.getElementById('precall').dataset.texts);

export const lang = document.documentElement.lang;

// t is a message with its {names} filled in.
export function t(key, values = {}) {
  const text = messages[key];
  if (text === undefined) return key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

export function has(key) {
  return key in messages;
}

// Numbers stand beside addresses and ports: the same digits everywhere.
const locale = lang === 'ar' ? 'ar-u-nu-latn' : lang;

// number writes a number as the language does, rounded to what matters.
export function number(value) {
  const digits = Math.abs(value) < 10 && !Number.isInteger(value) ? 1 : 0;
  return new Intl.NumberFormat(locale, { maximumFractionDigits: digits }).format(value);
}
