// Replaces the static chart by the interactive one. Whatever goes wrong, the static chart stays.
(() => {
  "use strict";
  const holder = document.getElementById("chart");
  const still = document.getElementById("chart-static");
  const tip = document.getElementById("tip");

  function tell(_handler, event, _item, value) {
    if (value === null || value === undefined || value === "") {
      tip.hidden = true;
      return;
    }
    const list = document.createElement("dl");
    for (const [name, told] of Object.entries(value)) {
      const term = document.createElement("dt");
      const detail = document.createElement("dd");
      term.textContent = name;
      detail.textContent = told === "null" || told === "NaN" ? "none" : told;
      list.append(term, detail);
    }
    tip.replaceChildren(list);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = event.clientX + 16 + box.width > innerWidth ? event.clientX - box.width - 16 : event.clientX + 16;
    const top = Math.min(event.clientY + 12, innerHeight - box.height - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  }

  // The chart is drawn at the width that it has: scaled by style it would take the pointer for being elsewhere.
  const AXES = 66;
  let drawn = null;
  let width = 0;
  let shown = null; // [from, to] in s, or all

  async function draw(anew) {
    const room = (still.hidden ? holder : still).clientWidth;
    if (!room || (room === width && !anew)) return;
    width = room;
    const spec = JSON.parse(document.getElementById("chart-spec").textContent);
    for (const panel of spec.vconcat) panel.width = Math.max(200, room - AXES);
    if (shown) spec.params.find((param) => param.name === "brush").value = { x: shown };
    const previous = drawn;
    const options = { mode: "vega-lite", renderer: "svg", actions: false, tooltip: tell };
    holder.hidden = false;
    drawn = await vegaEmbed(holder, spec, options);
    if (previous) previous.finalize();
    const svg = holder.querySelector("svg");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", still.getAttribute("aria-label"));
    still.hidden = true;
  }

  function drawOrKeep(anew) {
    draw(anew).catch((error) => {
      console.warn("the interactive chart could not be drawn", error);
      holder.hidden = true;
      still.hidden = false;
    });
  }

  // Buttons do what the pointer does in the overview, for keyboards and fingers.
  function offerZoom() {
    const { faults, moments } = JSON.parse(document.getElementById("chart-spec").textContent).datasets;
    if (!faults.length || faults.length > 12) return;
    const end = moments[moments.length - 1].t1;
    const around = (fault) => [Math.max(0, fault.start - (fault.until - fault.start) / 4), Math.min(end, fault.until)];
    const offers = [["whole run", null], ...faults.map((fault) => [fault.name, around(fault)])];
    const buttons = offers.map(([name, range]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.setAttribute("aria-pressed", String(range === null));
      button.addEventListener("click", () => {
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        shown = range;
        drawOrKeep(true);
      });
      return button;
    });
    const zoom = document.getElementById("zoom");
    zoom.append("Show ", ...buttons);
    zoom.hidden = false;
  }

  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => drawOrKeep(false), 150);
  });
  drawOrKeep(false);
  offerZoom();
})();
