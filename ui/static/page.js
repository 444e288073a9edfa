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

  // Where a column was sorted by hand, a table that is drawn anew (a running batch) is sorted the same way.
  const sorted = {};
  const resort = () => document.querySelectorAll('table[data-keep-sort]').forEach((table) => {
    const kept = sorted[table.dataset.keepSort];
    if (!kept || table.dataset.sorted) return;
    table.dataset.sorted = '1';
    const button = table.querySelector(`button[data-sort="${kept.key}"]`);
    if (button) { sort(button); if (kept.down) sort(button); }
  });

  const filter = (section) => {
    const word = section.querySelector('[data-filter=text]').value.trim().toLowerCase();
    const kind = section.querySelector('[data-filter=kind]').value;
    const fits = {
      '': () => true,
      told: (row) => Math.abs(Number(row.dataset.weight)) >= 0.05,
      placed: (row) => row.dataset.placed === '1',
      observed: (row) => row.dataset.status === 'observed',
    }[kind] || ((row) => row.dataset.for === kind);
    const rows = Array.from(section.querySelectorAll('tbody tr'));
    rows.forEach((row) => { row.hidden = !(fits(row) && row.textContent.toLowerCase().includes(word)); });
    const left = rows.filter((row) => !row.hidden).length;
    section.querySelector('[data-filter=count]').textContent = `${left} / ${rows.length}`;
    section.querySelector('.vf-none').hidden = left > 0;
  };
  ['input', 'change'].forEach((name) => document.addEventListener(name, (event) => {
    if (event.target.matches('[data-filter]')) filter(event.target.closest('.vf-evidence'));
  }));

  // A citation names its evidence and, in the conversation, its picture: #evidence-E2~CASE.
  let pending = '';
  const reveal = (name) => {
    const row = document.getElementById(name);
    if (!row) return;
    if (row.hidden) { // by a filter
      const section = row.closest('.vf-evidence');
      section.querySelector('[data-filter=text]').value = '';
      section.querySelector('[data-filter=kind]').value = '';
      filter(section);
    }
    flash(row);
  };
  document.addEventListener('click', (event) => {
    const link = event.target.closest('a[href*="#evidence-"]');
    if (link) {
      event.preventDefault();
      const [name, of] = link.getAttribute('href').split('#')[1].split('~');
      const shown = document.querySelector('.vf-evidence[data-case]')?.dataset.case;
      if (of && of !== shown) {
        pending = name;
        window.vlmforensics.openCase?.(of);
      } else reveal(name);
      return;
    }
    const button = event.target.closest('button[data-sort]');
    if (button) {
      sort(button);
      const table = button.closest('table');
      if (table.dataset.keepSort) {
        const down = button.closest('th').getAttribute('aria-sort') === 'descending';
        sorted[table.dataset.keepSort] = { key: button.dataset.sort, down };
        table.dataset.sorted = '1';
      }
    }
    if (event.target.closest('button[data-overlay]')) {
      document.getElementById('vf-viewer')?.scrollIntoView({ block: 'nearest' });
    }
  });

  // Light or dark: as the system, unless the visitor chose.
  const looks = (mode) => {
    const dark = mode === 'dark' || (mode === 'system' && window.matchMedia('(prefers-color-scheme: dark)').matches);
    document.body.classList.toggle('dark', dark);
    try { localStorage.setItem('vlmforensics-looks', mode); } catch { /* private window: for this visit only */ }
  };

  // Names for screen readers that the components leave out; they are drawn anew, hence the observer.
  const names = [
    ['#vf-box textarea', 'Your question'],
    ['#vf-drop button[aria-dropeffect]', 'Choose a picture to examine, or drop it here'],
    ['#vf-batch-files button[aria-dropeffect]', 'Choose pictures or ZIP archives, or drop them here'],
    ['#vf-calibration button[aria-dropeffect]', 'Choose a calibration file, or drop it here'],
    ['#vf-chat button:has(img[alt=""])', 'Picture that was sent'],
  ];
  const name = () => {
    names.forEach(([where, text]) => {
      document.querySelectorAll(where).forEach((part) => {
        if (part.getAttribute('aria-label') !== text) part.setAttribute('aria-label', text);
      });
    });
    document.querySelectorAll('.empty[aria-label]:not([role])').forEach((part) => part.setAttribute('role', 'img'));
    const language = document.querySelector('.vf-header')?.dataset.lang;
    if (language && document.documentElement.lang !== language) document.documentElement.lang = language;
    resort();
  };
  const watch = () => {
    let mode = null;
    try { mode = localStorage.getItem('vlmforensics-looks'); } catch { /* as the system */ }
    if (mode) looks(mode);
    name();
    // an update in place takes the mark of a sorted table away
    const watched = { childList: true, subtree: true, attributeFilter: ['data-sorted'] };
    new MutationObserver(name).observe(document.body, watched);
  };
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', watch);
  else watch();

  window.vlmforensics = {
    looks,
    flashLater: () => {
      // The table of the other picture is drawn a moment after its event ends.
      const name_ = pending;
      pending = '';
      const until = Date.now() + 3000;
      const attempt = () => {
        if (document.getElementById(name_)) reveal(name_);
        else if (Date.now() < until) setTimeout(attempt, 50);
      };
      if (name_) setTimeout(attempt, 120);
    },
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
