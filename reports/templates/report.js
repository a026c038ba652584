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

  async function draw() {
    const room = (still.hidden ? holder : still).clientWidth;
    if (!room || room === width) return;
    width = room;
    const spec = JSON.parse(document.getElementById("chart-spec").textContent);
    for (const panel of spec.vconcat) panel.width = Math.max(200, room - AXES);
    const previous = drawn;
    const options = { mode: "vega-lite", renderer: "svg", actions: false, tooltip: tell };
    holder.hidden = false;
    drawn = await vegaEmbed(holder, spec, options);
    if (previous) previous.finalize();
    const svg = holder.querySelector("svg");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "Success, rate and latency over time, with the faults in force");
    still.hidden = true;
  }

  function drawOrKeep() {
    draw().catch((error) => {
      console.warn("the interactive chart could not be drawn", error);
      holder.hidden = true;
      still.hidden = false;
    });
  }

  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(drawOrKeep, 150);
  });
  drawOrKeep();
})();
