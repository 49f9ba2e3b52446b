(() => {
  "use strict";
  const tip = document.getElementById("tip");
  let held = null;
  const show = (mark, event) => {
    tip.textContent = mark.getAttribute("aria-label");
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(event.clientX + 14, width - box.width - 8));
    const above = event.clientY - box.height - 14;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 8 ? above : event.clientY + 18}px`;
    held = mark;
  };
  const hide = () => { tip.hidden = true; held = null; };
  const over = (event) => {
    const mark = event.target instanceof Element ? event.target.closest('[aria-roledescription="tip"]') : null;
    if (mark) show(mark, event); else if (held) hide();
  };
  document.addEventListener("pointermove", over);
  document.addEventListener("pointerdown", over);
  window.addEventListener("scroll", hide, { passive: true });

  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) entry.isIntersecting ? seen.add(entry.target.id) : seen.delete(entry.target.id);
    let first = true;
    for (const [id, link] of links) {
      if (first && seen.has(id)) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
      if (seen.has(id)) first = false;
    }
  }, { rootMargin: "-10% 0px -60% 0px" });
  for (const section of document.querySelectorAll("main > section")) watch.observe(section);

  for (const button of document.querySelectorAll("button[data-opens]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const all = document.querySelectorAll(`#${button.dataset.opens} details`);
      const open = [...all].some((d) => !d.open);
      for (const d of all) d.open = open;
      button.textContent = open ? "Close all questions" : "Open all questions";
    });
  }
  window.addEventListener("beforeprint", () => {
    for (const d of document.querySelectorAll("details")) d.open = true;
  });
})();
