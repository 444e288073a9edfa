// The picture: layers with opacity, a line between before and after, zoom to the pixel, a box to ask about.
(() => {
  const root = () => (window.gradio_config && window.gradio_config.root || '').replace(/\/$/, '');

  const start = (viewer, send) => {
    const find = (name) => viewer.querySelector(name);
    const frame = find('.vf-frame');
    const sheet = find('.vf-sheet');
    const [whole, piece, marks] = ['.vf-whole', '.vf-piece', '.vf-marks'].map(find);
    const rubber = find('.vf-rubber');
    const line = find('.vf-line');
    const [opacity, split, zoom] = ['opacity', 'split', 'zoom'].map((name) => find(`input[data-tool=${name}]`));
    const caption = find('.vf-caption');
    const form = find('form');
    const numbers = ['x0', 'y0', 'x1', 'y1'].map((name) => form.elements[name]);
    const layers = Array.from(viewer.querySelectorAll('input[data-layer]'));
    const size = { width: Number(viewer.dataset.width), height: Number(viewer.dataset.height) };
    const address = `${root()}/vf/${viewer.dataset.case}`;
    const at = { x: 0, y: 0, scale: 1 }; // scale: screen pixels for a pixel of the picture; x, y: of the sheet's corner
    let fit = 1;
    let asking = false;
    let later = 0;

    const largest = () => Math.max(8, fit * 4);
    const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

    const place = () => {
      const [width, height] = [size.width * at.scale, size.height * at.scale];
      const [across, down] = [frame.clientWidth, frame.clientHeight];
      at.x = width <= across ? (across - width) / 2 : clamp(at.x, across - width, 0);
      at.y = height <= down ? (down - height) / 2 : clamp(at.y, down - height, 0);
      sheet.style.width = `${width}px`;
      sheet.style.height = `${height}px`;
      sheet.style.transform = `translate(${at.x}px, ${at.y}px)`;
      viewer.classList.toggle('vf-close', at.scale >= 2);
      viewer.classList.toggle('vf-zoomed', at.scale > fit * 1.001);
      const part = Number(split.value);
      const edge = (part / 100) * across - at.x; // from the sheet's left
      marks.style.clipPath = part > 0 ? `inset(0 0 0 ${Math.max(0, edge)}px)` : '';
      line.hidden = part <= 0 || part >= 100;
      line.style.left = `${part}%`;
      zoom.value = Math.round(100 * Math.log(at.scale / fit) / Math.log(largest() / fit)) || 0;
      zoom.setAttribute('aria-valuetext', `${Math.round(100 * at.scale)} %`);
      find('.vf-scale').textContent = `${Math.round(100 * at.scale)} %`;
      clearTimeout(later);
      later = setTimeout(sharpen, 180);
    };

    // Fetch what is in view at its own resolution where the picture was sent reduced.
    const sharpen = () => {
      if (!whole.naturalWidth || !viewer.isConnected) return;
      const reduced = whole.naturalWidth < size.width;
      if (!reduced || at.scale <= whole.naturalWidth / size.width) { piece.hidden = true; return; }
      const left = clamp(Math.floor(-at.x / at.scale), 0, size.width - 1);
      const top = clamp(Math.floor(-at.y / at.scale), 0, size.height - 1);
      const right = clamp(Math.ceil((frame.clientWidth - at.x) / at.scale), left + 1, size.width);
      const bottom = clamp(Math.ceil((frame.clientHeight - at.y) / at.scale), top + 1, size.height);
      if ((right - left) * (bottom - top) > 4e6) { piece.hidden = true; return; }
      piece.onload = () => {
        piece.hidden = false;
        const share = (value, all) => `${(100 * value) / all}%`;
        piece.style.left = share(left, size.width);
        piece.style.top = share(top, size.height);
        piece.style.width = share(right - left, size.width);
        piece.style.height = share(bottom - top, size.height);
      };
      piece.src = `${address}/piece?x0=${left}&y0=${top}&x1=${right}&y1=${bottom}`;
    };

    const fitted = () => {
      const high = Math.max(260, Math.min(window.innerHeight * 0.62, 640));
      const natural = frame.clientWidth / size.width * size.height;
      frame.style.height = `${Math.round(clamp(natural, 200, high))}px`;
      fit = Math.min(frame.clientWidth / size.width, frame.clientHeight / size.height);
    };

    const scaleTo = (scale, x = frame.clientWidth / 2, y = frame.clientHeight / 2) => {
      const next = clamp(scale, fit, largest());
      at.x = x - (x - at.x) * (next / at.scale);
      at.y = y - (y - at.y) * (next / at.scale);
      at.scale = next;
      place();
    };

    const shown = () => layers.filter((box) => box.checked);
    const redraw = () => {
      const chosen = shown();
      const said = chosen.map((box) => box.dataset.caption).join(' ') || viewer.dataset.plain;
      caption.textContent = said;
      whole.alt = `${viewer.dataset.file}. ${said}`;
      marks.hidden = chosen.length === 0;
      if (chosen.length) marks.src = `${address}/marks?show=${chosen.map((box) => box.dataset.layer).join(',')}`;
      document.querySelectorAll('.vf-show[data-overlay]').forEach((button) => {
        button.setAttribute('aria-pressed', String(chosen.some((box) => box.dataset.layer === button.dataset.overlay)));
      });
    };
    viewer.toggleLayer = (key) => {
      const box = layers.find((other) => other.dataset.layer === key);
      if (box) { box.checked = !box.checked; redraw(); }
    };

    // -- asking about a region
    const outline = () => {
      const [x0, y0, x1, y1] = numbers.map((field) => Number(field.value));
      const whole_ = x1 > x0 && y1 > y0;
      rubber.hidden = !asking || !whole_;
      Object.assign(rubber.style, {
        left: `${(100 * x0) / size.width}%`, top: `${(100 * y0) / size.height}%`,
        width: `${(100 * (x1 - x0)) / size.width}%`, height: `${(100 * (y1 - y0)) / size.height}%`,
      });
    };
    const ask = (on) => {
      asking = on;
      form.hidden = !on;
      viewer.classList.toggle('vf-asking', on);
      find('[data-act=ask]').setAttribute('aria-pressed', String(on));
      outline();
      if (on) form.scrollIntoView({ block: 'nearest' });
    };
    const point = (event) => {
      const box = frame.getBoundingClientRect();
      return [
        clamp(Math.round((event.clientX - box.left - frame.clientLeft - at.x) / at.scale), 0, size.width),
        clamp(Math.round((event.clientY - box.top - frame.clientTop - at.y) / at.scale), 0, size.height),
      ];
    };
    const setBox = (from, to) => {
      numbers[0].value = Math.min(from[0], to[0]);
      numbers[1].value = Math.min(from[1], to[1]);
      numbers[2].value = Math.max(from[0], to[0]);
      numbers[3].value = Math.max(from[1], to[1]);
      outline();
    };

    let drag = null;
    frame.addEventListener('pointerdown', (event) => {
      if (event.button !== 0) return;
      if (!asking && at.scale <= fit * 1.001) return; // nothing to move; let a phone scroll
      event.preventDefault();
      frame.setPointerCapture(event.pointerId);
      drag = { from: point(event), x: event.clientX - at.x, y: event.clientY - at.y };
    });
    frame.addEventListener('pointermove', (event) => {
      if (!drag) return;
      if (asking) { setBox(drag.from, point(event)); return; }
      at.x = event.clientX - drag.x;
      at.y = event.clientY - drag.y;
      place();
    });
    frame.addEventListener('pointerup', (event) => {
      if (drag && asking) {
        const to = point(event);
        const near = 4 / at.scale;
        if (Math.abs(to[0] - drag.from[0]) <= near && Math.abs(to[1] - drag.from[1]) <= near) {
          const half = Math.round(Math.min(112, size.width / 2, size.height / 2)); // a click: a square around it
          const [x, y] = [clamp(to[0], half, size.width - half), clamp(to[1], half, size.height - half)];
          setBox([Math.round(x - half), Math.round(y - half)], [Math.round(x + half), Math.round(y + half)]);
          form.dataset.point = `${to[0]},${to[1]}`;
        } else {
          setBox(drag.from, to);
          delete form.dataset.point;
        }
        form.elements.question.focus();
      }
      drag = null;
    });
    frame.addEventListener('pointercancel', () => { drag = null; });
    frame.addEventListener('wheel', (event) => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== frame) return; // the page scrolls otherwise
      event.preventDefault();
      const box = frame.getBoundingClientRect();
      scaleTo(at.scale * Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    frame.addEventListener('dblclick', (event) => {
      const box = frame.getBoundingClientRect();
      scaleTo(at.scale > fit * 1.01 ? fit : Math.max(1, fit * 2), event.clientX - box.left, event.clientY - box.top);
    });
    frame.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
      if (step && at.scale > fit * 1.001) { at.x += step[0]; at.y += step[1]; place(); }
      else if (event.key === '+' || event.key === '=') scaleTo(at.scale * 1.4);
      else if (event.key === '-') scaleTo(at.scale / 1.4);
      else if (event.key === '0') scaleTo(fit);
      else return;
      event.preventDefault();
    });

    zoom.addEventListener('input', () => scaleTo(fit * (largest() / fit) ** (Number(zoom.value) / 100)));
    opacity.addEventListener('input', () => { marks.style.opacity = Number(opacity.value) / 100; });
    split.addEventListener('input', place);
    layers.forEach((box) => box.addEventListener('change', redraw));
    numbers.forEach((field) => field.addEventListener('input', () => { delete form.dataset.point; outline(); }));
    viewer.addEventListener('click', (event) => {
      const act = event.target.closest('[data-act]')?.dataset.act;
      if (act === 'ask') ask(!asking);
      else if (act === 'cancel') ask(false);
      else if (act === 'fit') scaleTo(fit);
      else if (act === 'pixels') scaleTo(Math.max(4, fit));
      else if (act === 'full') {
        if (document.fullscreenElement) document.exitFullscreen(); else viewer.requestFullscreen();
      }
    });
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const box = numbers.map((field) => Number(field.value));
      if (!(box[2] > box[0] && box[3] > box[1])) { numbers[0].focus(); return; }
      send({
        case: viewer.dataset.case, box, question: form.elements.question.value,
        point: (form.dataset.point || '').split(',').filter(Boolean).map(Number),
      });
      ask(false);
    });

    let before = fit;
    new ResizeObserver(() => {
      if (!frame.clientWidth) return;
      const whole_ = at.scale <= before * 1.001;
      fitted();
      at.scale = whole_ ? fit : Math.max(at.scale, fit);
      before = fit;
      place();
    }).observe(viewer);
    whole.addEventListener('load', place, { once: true });
    whole.src = `${address}/whole`;
    fitted();
    at.scale = fit;
    place();
    redraw();
  };

  // Called by the component when it is made; its content is drawn anew with each picture.
  window.vlmforensicsViewer = (element, trigger) => {
    const look = () => {
      const viewer = element.querySelector('.vf-viewer:not([data-started])');
      if (!viewer) return;
      viewer.dataset.started = '1';
      start(viewer, (data) => trigger('submit', data));
    };
    new MutationObserver(look).observe(element, { childList: true, subtree: true });
    look();
  };
  document.addEventListener('click', (event) => {
    const button = event.target.closest('.vf-show[data-overlay]');
    if (button) document.querySelector('.vf-viewer')?.toggleLayer?.(button.dataset.overlay);
  });
})();
