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

  try {
    const spec = JSON.parse(document.getElementById("chart-spec").textContent);
    const view = new vega.View(vega.parse(spec), { renderer: "svg", container: holder, hover: true });
    view.tooltip(tell);
    view.runAsync().then(() => {
      const svg = holder.querySelector("svg");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", "Success, rate and latency over time, with the faults in force");
      holder.hidden = false;
      still.hidden = true;
    }).catch((error) => console.warn("the interactive chart could not be drawn", error));
  } catch (error) {
    console.warn("the interactive chart could not be drawn", error);
  }
})();
