"use strict";
(() => {
  const tip = document.getElementById("tip");
  const dialog = document.getElementById("large");
  const stage = document.getElementById("stage");
  let on = null;
  document.documentElement.classList.add("js");

  // Shows what is said of a point beside it, and marks the point.
  function show(mark) {
    hide();
    on = mark;
    mark.classList.add("on");
    tip.textContent = mark.dataset.say;
    tip.hidden = false;
    const box = mark.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(4, box.left + box.width / 2 - size.width / 2), innerWidth - size.width - 4);
    const above = box.top - size.height - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  }

  function hide() {
    if (on) on.classList.remove("on");
    on = null;
    tip.hidden = true;
  }

  // The point of a figure that is nearest to a place on the screen, within reach of a finger.
  function nearest(frame, x, y) {
    let best = null;
    let least = 24;
    for (const mark of frame.querySelectorAll("[data-say]")) {
      const box = mark.getBoundingClientRect();
      const far = Math.hypot(box.left + box.width / 2 - x, box.top + box.height / 2 - y);
      if (far < least) { best = mark; least = far; }
    }
    return best;
  }

  function enlarge(frame) {
    hide();
    stage.replaceChildren(frame.querySelector("svg").cloneNode(true));
    dialog.showModal();
    dialog.append(tip);
  }

  function walk(frame, step) {
    const marks = [...frame.querySelectorAll("[data-say]")];
    if (!marks.length) return;
    const place = marks.indexOf(on);
    show(marks[place < 0 ? (step > 0 ? 0 : marks.length - 1) : (place + step + marks.length) % marks.length]);
  }

  function listen(frame) {
    frame.addEventListener("pointermove", (event) => {
      const mark = nearest(frame, event.clientX, event.clientY);
      if (mark && mark !== on) show(mark);
      if (!mark) hide();
    });
    frame.addEventListener("pointerleave", hide);
    frame.addEventListener("blur", hide);
    frame.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      if (event.key in steps) { walk(frame, steps[event.key]); event.preventDefault(); }
      // Without this the same key press would close what it opened: the dialog's button has the focus then.
      if (event.key === "Enter" && frame !== stage) { enlarge(frame); event.preventDefault(); }
      if (event.key === "Escape") hide();
    });
  }

  for (const frame of document.querySelectorAll(".frame")) {
    if (!frame.querySelector("svg")) continue;
    listen(frame);
    frame.addEventListener("click", () => enlarge(frame));
    frame.parentElement.querySelector(".zoom").addEventListener("click", () => enlarge(frame));
  }
  stage.tabIndex = 0;
  listen(stage);
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => { hide(); document.body.append(tip); stage.replaceChildren(); });
  addEventListener("scroll", hide, { passive: true });
})();
