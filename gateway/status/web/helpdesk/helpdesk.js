// The help desk's page works without a script; this one copies the ticket and puts the reader where the answer is.
const button = document.getElementById('copy');
document.getElementById('sentence')?.focus();

button?.addEventListener('click', async () => {
  const name = button.textContent;
  try {
    await navigator.clipboard.writeText(document.getElementById('ticket').textContent);
    button.textContent = button.dataset.copied;
  } catch {
    button.textContent = button.dataset.failed;
  }
  setTimeout(() => { button.textContent = name; }, 2000);
});
