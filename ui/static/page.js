// Citations jump to their row, the evidence table sorts, downloads start: what plain HTML can't do here.
(() => {
  const flash = (row) => {
    document.querySelectorAll('.vf-cited').forEach((other) => other.classList.remove('vf-cited'));
    row.classList.add('vf-cited');
    const calm = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    row.scrollIntoView({ behavior: calm ? 'auto' : 'smooth', block: 'center' });
    row.focus({ preventScroll: true });
  };

  const sort = (button) => {
    const head = button.closest('th');
    const table = button.closest('table');
    const down = head.getAttribute('aria-sort') === 'ascending';
    const key = button.dataset.sort;
    const value = (row) => row.dataset[key] || '';
    const compare = button.dataset.kind === 'number'
      ? (a, b) => Number(value(a)) - Number(value(b))
      : (a, b) => value(a).localeCompare(value(b));
    const rows = Array.from(table.tBodies[0].rows).sort(compare);
    if (down) rows.reverse();
    table.querySelectorAll('th[aria-sort]').forEach((other) => other.setAttribute('aria-sort', 'none'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    table.tBodies[0].append(...rows);
  };

  document.addEventListener('click', (event) => {
    const link = event.target.closest('a[href*="#evidence-"]');
    if (link) {
      const row = document.getElementById(link.getAttribute('href').split('#')[1]);
      event.preventDefault();
      if (row) flash(row);
      return;
    }
    const button = event.target.closest('button[data-sort]');
    if (button) sort(button);
    if (event.target.closest('button[data-overlay]')) {
      document.getElementById('vf-views')?.scrollIntoView({ block: 'nearest' });
    }
  });

  // Names for screen readers that the components leave out; they are drawn anew, hence the observer.
  const names = [
    ['#vf-box textarea', 'Your question'],
    ['#vf-drop button[aria-dropeffect]', 'Choose a picture to examine, or drop it here'],
    ['#vf-chat button:has(img[alt=""])', 'Picture that was sent'],
  ];
  const name = () => names.forEach(([where, text]) => {
    document.querySelectorAll(where).forEach((part) => {
      if (part.getAttribute('aria-label') !== text) part.setAttribute('aria-label', text);
    });
  });
  const watch = () => {
    name();
    new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  };
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', watch);
  else watch();

  window.vlmforensics = {
    download: (id) => {
      // The link appears when the component has drawn its new value.
      const until = Date.now() + 5000;
      const attempt = () => {
        const part = document.getElementById(id);
        const link = part && (part.matches('a[href]') ? part : part.querySelector('a[href]'));
        if (link) link.click();
        else if (part && Date.now() > until - 4500) part.click();
        else if (Date.now() < until) setTimeout(attempt, 50);
      };
      attempt();
    },
  };
})();
