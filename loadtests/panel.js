// Kadstorm's panel in Locust's page. No framework: Locust's own page is a built application that is not to be touched.
(() => {
  const asked = { headers: { "X-Kadstorm-Panel": "1", "Content-Type": "application/json" } };
  const style = document.createElement("style");
  style.textContent = `
    #kadstorm { position: fixed; right: 16px; bottom: 16px; width: 340px; max-height: calc(100vh - 96px); overflow: auto;
      z-index: 2000; font: 13px/1.45 system-ui, sans-serif; color: #1b2430; background: #fff; border: 1px solid #c9d1dc;
      border-radius: 10px; box-shadow: 0 6px 24px rgba(20, 30, 50, .22); }
    #kadstorm.small .body { display: none; }
    #kadstorm header { display: flex; align-items: center; gap: 8px; padding: 9px 12px; font-weight: 650; cursor: default; }
    #kadstorm header span { flex: 1; }
    #kadstorm .body { padding: 0 12px 12px; }
    #kadstorm h3 { margin: 12px 0 4px; font-size: 11px; letter-spacing: .04em; text-transform: uppercase; color: #5a6778; }
    #kadstorm table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
    #kadstorm td, #kadstorm th { text-align: right; padding: 1px 0 1px 8px; font-weight: 400; }
    #kadstorm th:first-child, #kadstorm td:first-child { text-align: left; padding-left: 0; }
    #kadstorm th { color: #5a6778; }
    #kadstorm .bad { color: #b3261e; font-weight: 650; }
    #kadstorm .nodes { display: flex; flex-wrap: wrap; gap: 3px; }
    #kadstorm .nodes i { width: 14px; height: 14px; border-radius: 3px; background: #2e8b57; }
    #kadstorm .nodes i.down { background: repeating-linear-gradient(45deg, #b3261e 0 3px, #f2b8b5 3px 6px); }
    #kadstorm ul { list-style: none; margin: 0; padding: 0; }
    #kadstorm li { display: flex; gap: 8px; align-items: center; padding: 3px 0; }
    #kadstorm li code { flex: 1; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
    #kadstorm form { display: flex; gap: 6px; margin-top: 4px; }
    #kadstorm input { flex: 1; min-width: 0; font: 12px ui-monospace, monospace; padding: 5px 7px; color: inherit;
      background: #fff; border: 1px solid #aab4c2; border-radius: 6px; }
    #kadstorm button { font: inherit; padding: 3px 10px; color: #1b2430; background: #eef1f5; border: 1px solid #aab4c2;
      border-radius: 6px; cursor: pointer; }
    #kadstorm button:disabled { opacity: .55; cursor: progress; }
    #kadstorm .said { min-height: 1.4em; margin: 6px 0 0; color: #b3261e; overflow-wrap: anywhere; }
    @media (prefers-color-scheme: dark) {
      #kadstorm, #kadstorm input { color: #e6ebf2; background: #1d232c; border-color: #45505f; }
      #kadstorm h3, #kadstorm th { color: #9fadbf; }
      #kadstorm button { color: #e6ebf2; background: #2c3542; border-color: #55627a; }
      #kadstorm .bad, #kadstorm .said { color: #ff8a80; }
    }`;
  const panel = document.createElement("aside");
  panel.id = "kadstorm";
  panel.setAttribute("aria-label", "Kadstorm");
  panel.innerHTML = `
    <header><span>Kadstorm</span><button type="button" class="fold" aria-expanded="true">hide</button></header>
    <div class="body">
      <h3>Last 5 seconds</h3>
      <table><thead><tr><th></th><th>per s</th><th>success</th><th>p50</th><th>p99</th></tr></thead><tbody class="figures"></tbody></table>
      <h3>Nodes <span class="count"></span></h3><div class="nodes"></div>
      <h3>Faults in force</h3><ul class="faults"></ul>
      <form><input name="fault" list="kadstorm-faults" placeholder="partition: halves" aria-label="fault to inject"
        autocomplete="off" spellcheck="false"><datalist id="kadstorm-faults"></datalist><button class="inject">Inject</button></form>
      <p class="said" role="status"></p>
    </div>`;
  document.head.append(style);
  document.body.append(panel);
  const find = (selector) => panel.querySelector(selector);
  const examples = ["partition: halves", "latency: {latency: 200ms}", "kill: {nodes: 1}", "pause: {nodes: 1}", "blackhole", "refuse"];
  let busy = false;

  const send = async (what, body) => {
    const answer = await fetch(`/kadstorm/${what}`, body ? { ...asked, method: "POST", body: JSON.stringify(body) } : asked);
    return answer.json();
  };
  const act = async (what, body) => {
    if (busy) return;
    busy = true;
    panel.querySelectorAll(".inject, .heal").forEach((button) => { button.disabled = true; });
    find(".said").textContent = what === "inject" ? "injecting, and measuring its effect …" : "healing, and measuring …";
    try {
      find(".said").textContent = (await send(what, body)).error || "";
    } catch (error) {
      find(".said").textContent = String(error);
    }
    busy = false;
    find(".inject").disabled = false;
    await refresh();
  };
  const cell = (row, text, bad) => {
    const td = row.insertCell();
    td.textContent = text;
    if (bad) td.className = "bad";
  };
  const showFigures = (figures) => {
    const body = find(".figures");
    body.replaceChildren();
    for (const [kind, of] of Object.entries(figures)) {
      const row = body.insertRow();
      row.dataset.kind = kind;
      row.dataset.count = of.count;
      row.dataset.p99 = of.p99_ms === null ? "" : of.p99_ms;
      row.dataset.success = of.success === null ? "" : of.success;
      cell(row, kind === "lookup" ? "Lookups" : "Stores");
      cell(row, of.rate.toFixed(of.rate < 10 ? 1 : 0));
      cell(row, of.success === null ? "–" : `${(of.success * 100).toFixed(1)}%`, of.success !== null && of.success < 0.99);
      for (const ms of [of.p50_ms, of.p99_ms]) cell(row, ms === null ? "–" : `${Math.round(ms)} ms`);
    }
  };
  const showNodes = (nodes) => {
    const up = nodes.filter((node) => node.state === "up").length;
    find(".count").textContent = `${up} of ${nodes.length} up`;
    find(".nodes").replaceChildren(...nodes.map((node) => {
      const mark = document.createElement("i");
      mark.className = node.state;
      mark.title = `${node.name} (${node.site}): ${node.state}`;
      return mark;
    }));
  };
  const showFaults = (faults) => {
    const shown = faults.map((fault) => {
      const item = document.createElement("li");
      item.dataset.name = fault.name;
      const text = document.createElement("code");
      text.textContent = text.title = fault.text;
      const heal = document.createElement("button");
      heal.type = "button";
      heal.className = "heal";
      heal.textContent = "Heal";
      heal.disabled = busy;
      heal.setAttribute("aria-label", `heal ${fault.name}`);
      heal.addEventListener("click", () => act("heal", { name: fault.name }));
      item.append(text, heal);
      return item;
    });
    find(".faults").replaceChildren(...shown);
    if (!shown.length) find(".faults").textContent = "none";
  };
  const refresh = async () => {
    try {
      const state = await send("state");
      if (state.error) throw new Error(state.error);
      showFigures(state.figures);
      showNodes(state.nodes);
      showFaults(state.faults);
      const known = new Set(state.kinds.map((kind) => kind.key));
      const listed = [...examples.filter((text) => known.has(text.split(":")[0])), ...known];
      find("datalist").replaceChildren(...listed.map((text) => { const o = document.createElement("option"); o.value = text; return o; }));
    } catch (error) {
      find(".said").textContent = error.message;
    }
  };
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = find("input").value.trim() || find("input").placeholder;
    act("inject", { text });
  });
  find(".fold").addEventListener("click", () => {
    const small = panel.classList.toggle("small");
    find(".fold").textContent = small ? "show" : "hide";
    find(".fold").setAttribute("aria-expanded", String(!small));
  });
  refresh();
  setInterval(() => { if (!busy) refresh(); }, 1000);
})();
