"use strict";
(() => {
  const all = (where, what) => Array.from(where.querySelectorAll(what));
  const button = (around, pressed) => {
    const made = document.createElement("button");
    made.type = "button";
    made.append(...around.childNodes);
    around.append(made);
    if (pressed) made.setAttribute("aria-pressed", "true");
    return made;
  };

  // Tables: a heading sorts, a second time the other way round, a third time as it was.
  const seconds = { s: 1, min: 60, h: 3600 };
  const valueOf = (text) => {
    const found = text.replace(/−/g, "-").replace(/(\d),(?=\d{3})/g, "$1")
      .match(/^[×x]?([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*(s|min|h)?(?![\w.])/i);
    return found ? Number(found[1]) * (seconds[found[2]] || 1) : NaN;
  };
  for (const table of all(document, "table")) {
    const heads = all(table, "th"), body = table.tBodies[0], before = all(body, "tr");
    heads.forEach((head, column) => {
      head.setAttribute("aria-sort", "none");
      button(head).addEventListener("click", () => {
        const was = head.getAttribute("aria-sort");
        const way = was === "none" ? "descending" : was === "descending" ? "ascending" : "none";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", way);
        const read = (row) => row.cells[column].textContent.trim();
        const told = before.filter((row) => !["", "–", "never"].includes(read(row)));
        const numbers = told.filter((row) => !Number.isNaN(valueOf(read(row)))).length * 2 > told.length;
        const sign = way === "descending" ? -1 : 1;
        const sorted = [...before].sort((a, b) => {
          if (way === "none") return 0;
          const missing = !told.includes(a) - !told.includes(b); // what has no value is last either way
          if (missing) return missing;
          if (!numbers) return -sign * read(a).localeCompare(read(b), undefined, { numeric: true });
          const [x, y] = [valueOf(read(a)), valueOf(read(b))];
          return Number.isNaN(x) - Number.isNaN(y) || sign * (x - y) || 0;
        });
        body.append(...sorted);
      });
    });
  }

  // Rows of a drawing close up where one is hidden; the axis is at the top.
  const closeUp = (svg) => {
    let rows = 0, top = 0, height = 0;
    for (const row of all(svg, ".row")) {
      top = Number(row.dataset.top);
      height = Number(row.dataset.h);
      const hidden = row.matches(".off, .gone");
      if (!hidden) row.parentNode.setAttribute("transform", `translate(0 ${top + rows++ * height})`);
    }
    const box = svg.viewBox.baseVal;
    svg.setAttribute("viewBox", `0 0 ${box.width} ${top + Math.max(rows, 1) * height + 8}`);
  };
  const settle = (where) => {
    for (const svg of all(where, "svg")) {
      if (svg.matches(".rows")) closeUp(svg);
      enter(svg);
    }
  };
  // One place to enter a drawing with the tab key; arrow keys go on from there.
  const marksOf = (svg) => all(svg, ".mark").filter((mark) => !mark.closest(".off, .gone"));
  const enter = (svg, wanted) => {
    const marks = marksOf(svg);
    all(svg, ".mark").forEach((mark) => mark.setAttribute("tabindex", "-1"));
    const first = wanted || marks[0];
    if (first) first.setAttribute("tabindex", "0");
  };
  const switches = (lists, key, mark, scope) => {
    for (const list of lists) {
      list.hidden = false;
      const around = list.closest(scope) || document.body;
      for (const item of all(list, "li")) {
        const own = button(item, true);
        own.addEventListener("click", () => {
          const shown = own.getAttribute("aria-pressed") !== "true";
          own.setAttribute("aria-pressed", String(shown));
          for (const part of all(around, `[data-${key}]`)) {
            if (part.tagName !== "LI" && part.dataset[key] === item.dataset[key]) part.classList.toggle(mark, !shown);
          }
          settle(around);
        });
      }
    }
  };
  switches(all(document, ".keys"), "s", "off", "figure");
  switches(all(document, ".methods"), "m", "gone", "section");

  // Marks tell what they stand for.
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  const tell = (mark) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const place = (mark.querySelector(".shape, .cross") || mark).getBoundingClientRect();
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    const left = place.left + place.width / 2 - width / 2;
    tip.style.left = `${Math.max(4, Math.min(left, document.documentElement.clientWidth - width - 4))}px`;
    const above = place.top - height - 12;
    tip.style.top = `${above > 4 ? above : Math.min(place.bottom + 12, innerHeight - height - 4)}px`;
  };
  for (const svg of all(document, "svg")) {
    for (const mark of all(svg, ".mark")) {
      const title = mark.querySelector("title");
      mark.dataset.tip = title.textContent;
      mark.setAttribute("role", "img");
      mark.setAttribute("aria-label", title.textContent.replace(/\n/g, ", "));
      title.remove();
    }
    enter(svg);
    const markOf = (event) => event.target.closest(".mark");
    svg.addEventListener("pointerover", (event) => { if (markOf(event)) tell(markOf(event)); });
    svg.addEventListener("pointerout", hide);
    svg.addEventListener("focusin", (event) => { if (markOf(event)) { enter(svg, markOf(event)); tell(markOf(event)); } });
    svg.addEventListener("focusout", hide);
    svg.addEventListener("keydown", (event) => {
      const marks = marksOf(svg), here = marks.indexOf(document.activeElement);
      const to = {
        ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: marks.length - 1,
      }[event.key];
      if (to === undefined || here < 0) return;
      event.preventDefault();
      marks[Math.max(0, Math.min(to, marks.length - 1))].focus();
    });
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  // The focus may have brought a mark into view, and then it goes on telling.
  const followed = () => {
    const focused = document.activeElement.closest(".mark");
    if (focused && !tip.hidden) tell(focused); else hide();
  };
  document.addEventListener("scroll", followed, { passive: true, capture: true });
})();
