"use strict";
/* Shows what the stream says. Every text goes in as text, never as markup; nothing is sent. */

const byId = (id) => document.getElementById(id);

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

/* Sets a text only where it is another: a screen reader is told of changes alone. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// -- Words ---------------------------------------------------------------------------------------

function seconds(value) {
  if (value === null || value === undefined) return "–";
  const whole = Math.floor(value);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

function bytes(value) {
  if (!value) return "–";
  const units = ["B", "KB", "MB", "GB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

function number(value) {
  return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 2 : 0 });
}

const BUSY = new Set(["starting", "stopping", "killing", "backoff"]);

function fell(entry) {
  if (entry.state === "fatal" || entry.state === "dead") return true;
  return entry.state === "exited" && entry.returncode !== 0;
}

function tone(entry) {
  if (fell(entry)) return "bad";
  if (BUSY.has(entry.state)) return "busy";
  return entry.state === "running" ? "good" : "quiet";
}

function stateWords(entry) {
  const exit = entry.exit === null || entry.exit === undefined ? "" : ` (${entry.exit})`;
  return `${fell(entry) ? "✕ " : ""}${entry.state}${exit}`;
}

// -- The flow and the findings ---------------------------------------------------------------------

function showStep(id, figure, note, className) {
  const step = byId(`flow-${id}`);
  say(step.querySelector(".figure"), figure);
  say(step.querySelector(".note"), note);
  step.querySelector(".figure").className = `figure ${className}`;
}

function showFlow(status) {
  const sessions = status.sessions;
  const running = sessions.filter((session) => session.state === "running").length;
  const failed = sessions.filter(fell).length;
  showStep("sessions", `${running} of ${sessions.length} run`,
    failed ? `${failed} failed` : "none failed", failed ? "bad" : "good");
  const shards = status.shards;
  showStep("shards", `${shards.live} live`,
    `${shards.retired} of the dead to be folded, ${shards.unreadable} unreadable, ${bytes(shards.bytes)}`,
    shards.unreadable ? "bad" : "good");
  const metricsd = status.metricsd;
  showStep("metricsd", metricsd.state,
    `port ${status.port.port}, restarted ${metricsd.restarts} times`, tone(metricsd));
  const age = metricsd.last_scrape_age_seconds;
  if (age === null) showStep("prometheus", "never scraped", "no scrape by a Prometheus yet", "quiet");
  else showStep("prometheus", `${seconds(age)} ago`, "the last scrape", age > 120 ? "bad" : "good");
}

function showDrift(findings) {
  const list = byId("drift");
  byId("no-drift").hidden = findings.length > 0;
  list.replaceChildren(...findings.map((finding) => {
    const item = make("li");
    item.append(make("strong", finding.subject ? `${finding.kind}: ${finding.subject}` : finding.kind));
    if (finding.actual !== undefined) {
      item.append(make("p", `expected: ${finding.expected}`), make("p", `actual: ${finding.actual}`));
    }
    item.append(make("p", `${finding.hint} (for ${seconds(finding.since_seconds)})`));
    return item;
  }));
}

// -- Sessions --------------------------------------------------------------------------------------

const rows = new Map(); // by name: what is shown of a session, kept so that the focus stays

function makeRow(name, withLog) {
  const row = make("tr", undefined, "row");
  const head = make("th");
  head.scope = "row";
  const button = make("button", name);
  button.type = "button";
  button.setAttribute("aria-expanded", "false");
  head.append(button);
  const cells = Object.fromEntries(
    ["state", "up", "signal", "exposure", "restarts", "cpu", "memory"].map((key) => {
      const wide = ["exposure", "restarts", "cpu", "memory"].includes(key) ? " wide" : "";
      return [key, make("td", "", key === "state" || key === "signal" ? wide : `number${wide}`)];
    }));
  row.append(head, ...Object.values(cells));
  const more = make("tr", undefined, "more");
  more.hidden = true;
  const inside = make("td");
  inside.colSpan = 8;
  const facts = make("dl");
  inside.append(facts);
  let log = null;
  if (withLog) {
    log = make("pre", "…");
    log.tabIndex = 0;
    log.setAttribute("aria-label", `The last lines of ${name}`);
    log.setAttribute("role", "region");
    inside.append(log);
  }
  more.append(inside);
  const found = { row, more, cells, facts, log };
  button.addEventListener("click", () => {
    more.hidden = !more.hidden;
    button.setAttribute("aria-expanded", String(!more.hidden));
    if (view) showSessions(view);
    if (!more.hidden) showLog(name, found);
  });
  return found;
}

async function showLog(name, found) {
  if (!found.log) return;
  const answer = await fetch(`logs/${encodeURIComponent(name)}`).catch(() => null);
  if (!answer || !answer.ok) return;
  const { lines } = await answer.json();
  const atEnd = found.log.scrollTop + found.log.clientHeight >= found.log.scrollHeight - 8;
  say(found.log, lines.length ? lines.join("\n") : "It has said nothing.");
  if (atEnd) found.log.scrollTop = found.log.scrollHeight;
}

function signalWords(strategies) {
  const known = strategies.filter((strategy) => strategy.signal);
  if (!known.length) return strategies.length ? "none yet" : "–";
  return known.map((strategy) => {
    const whose = strategies.length > 1 ? `${strategy.id}: ` : "";
    return `${whose}${strategy.signal}, ${seconds(strategy.signal_age_seconds)} ago`;
  }).join("; ");
}

function exposureWords(strategies) {
  const all = strategies.flatMap((strategy) => Object.entries(strategy.exposures)
    .map(([currency, value]) => `${number(value)} ${currency}`));
  return all.length ? all.join(", ") : "–";
}

function showSession(found, session, strategies) {
  const { row, cells, facts } = found;
  row.classList.toggle("fell", fell(session));
  say(cells.state, stateWords(session));
  cells.state.className = tone(session);
  const texts = {
    up: seconds(session.uptime_seconds),
    signal: signalWords(strategies),
    exposure: exposureWords(strategies),
    restarts: String(session.restarts),
    cpu: `${session.cpu_percent} %`,
    memory: bytes(session.rss_bytes),
  };
  for (const [key, text] of Object.entries(texts)) say(cells[key], text);
  if (found.more.hidden) return;
  const more = [
    ["Command", session.command.join(" ")],
    ["Process", session.pid ? `pid ${session.pid}, incarnation ${session.incarnation}` : null],
    ["Strategies", strategies.map((strategy) => strategy.id).join(", ") || null],
    ["Shards", String(session.shards)],
    ["Why", session.reason || null],
    ["Exposure", texts.exposure, "narrow"],
    ["Restarts", texts.restarts, "narrow"],
    ["CPU, memory", `${texts.cpu}, ${texts.memory}`, "narrow"],
  ].filter(([, text]) => text !== null);
  facts.replaceChildren(...more.flatMap(([word, text, className]) =>
    [make("dt", word, className), make("dd", text, className)]));
}

function showSessions(shown) {
  const body = byId("sessions").tBodies[0];
  const sessions = shown.status.sessions;
  byId("no-sessions").hidden = sessions.length > 0;
  byId("sessions").hidden = !sessions.length;
  const names = new Set(sessions.map((session) => session.name));
  for (const [name, found] of rows) {
    if (names.has(name)) continue;
    found.row.remove();
    found.more.remove();
    rows.delete(name);
  }
  for (const session of sessions) {
    if (!rows.has(session.name)) {
      const made = makeRow(session.name, !shown.public);
      rows.set(session.name, made);
      body.append(made.row, made.more);
    }
    showSession(rows.get(session.name), session, shown.strategies[session.name] || []);
  }
}

function showExporters(exporters) {
  byId("exporters-section").hidden = !exporters.length;
  byId("exporters").tBodies[0].replaceChildren(...exporters.map((exporter) => {
    const row = make("tr");
    const head = make("th", exporter.name);
    head.scope = "row";
    row.append(head, make("td", stateWords(exporter), tone(exporter)),
      make("td", String(exporter.port ?? "–"), "number"),
      make("td", seconds(exporter.uptime_seconds), "number"),
      make("td", String(exporter.restarts ?? 0), "number"));
    return row;
  }));
}

// -- Charts ----------------------------------------------------------------------------------------

const plots = new Map();
const LINES = 10;

function colour(index) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--line-${index % LINES}`).trim();
}

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function makeFigure(chart) {
  const figure = make("figure");
  figure.id = `chart-${chart.id}`;
  const caption = make("figcaption", `${chart.title} `);
  caption.append(make("span", chart.unit));
  const canvas = make("div");
  canvas.setAttribute("role", "img");
  const legend = make("ul");
  const none = make("p", "Nothing yet.", "none");
  figure.append(caption, canvas, none, legend);
  byId("charts").append(figure);
  return { figure, canvas, legend, none, plot: null, names: "" };
}

function makePlot(shown, chart, width) {
  const axis = { stroke: ink("--soft"), grid: { stroke: ink("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  return new uPlot({
    width,
    height: 160,
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: false },
      y: { range: (_plot, _low, high) => [0, chart.id === "limits" ? 1 : Math.max(1, (high || 0) * 1.1)] },
    },
    axes: [
      { ...axis, space: 70, size: 26, incrs: [30, 60], values: (_plot, ages) => ages.map((age) => (age === 0 ? "now" : `${-age / 60} min`)) },
      { ...axis, size: 44 },
    ],
    series: [{}, ...chart.lines.map((_line, index) => (
      { stroke: colour(index), width: 2, spanGaps: false, points: { size: 4 } }))],
  }, undefined, shown.canvas);
}

function latest(line) {
  for (let index = line.values.length - 1; index >= 0; index -= 1) {
    if (line.values[index] !== null) return line.values[index];
  }
  return null;
}

function showChart(chart) {
  if (!plots.has(chart.id)) plots.set(chart.id, makeFigure(chart));
  const shown = plots.get(chart.id);
  const empty = !chart.lines.length;
  shown.none.hidden = !empty;
  shown.canvas.hidden = empty;
  const words = chart.lines.map((line) => {
    const value = latest(line);
    return `${line.name}: ${value === null ? "–" : number(value)}`;
  });
  shown.canvas.setAttribute("aria-label", `${chart.title}, ${chart.unit}; now ${words.join(", ")}`);
  shown.legend.replaceChildren(...words.map((text, index) => {
    const item = make("li", text);
    item.style.setProperty("--colour", `var(--line-${index % LINES})`);
    return item;
  }));
  if (empty) return;
  const names = JSON.stringify(chart.lines.map((line) => line.name));
  const width = Math.floor(shown.canvas.getBoundingClientRect().width);
  if (!shown.plot || shown.names !== names || shown.plot.width !== width) {
    if (shown.plot) shown.plot.destroy();
    shown.plot = makePlot(shown, chart, width);
    shown.names = names;
  }
  shown.plot.setData([chart.ages, ...chart.lines.map((line) => line.values)]);
}

// -- The stream ------------------------------------------------------------------------------------

let view = null;
let charts = [];
let seenAt = null;

function showView(shown) {
  view = shown;
  const supervisor = view.status.supervisor;
  const badge = byId("supervisor");
  say(badge, `supervisor ${supervisor.state}`);
  badge.className = `badge ${tone(supervisor)}`;
  document.title = `ptsup: ${view.status.sessions.filter(fell).length || "none"} failed`;
  showFlow(view.status);
  showDrift(view.status.drift);
  showSessions(view);
  showExporters(view.status.exporters || []);
  seenAt = Date.now();
}

function showContact() {
  const lost = seenAt === null || Date.now() - seenAt > 15000;
  document.body.classList.toggle("lost", lost);
  if (seenAt !== null) say(byId("contact"), lost ? "No answer lately; asking again." : "Live: seen each second.");
}

const stream = new EventSource("events");
stream.addEventListener("status", (event) => { showView(JSON.parse(event.data)); showContact(); });
stream.addEventListener("charts", (event) => { charts = JSON.parse(event.data); charts.forEach(showChart); });
stream.addEventListener("problem", (event) => {
  const problem = JSON.parse(event.data);
  const badge = byId("supervisor");
  say(badge, "nothing runs");
  badge.className = "badge bad";
  document.body.classList.add("lost");
  seenAt = null;
  say(byId("contact"), `${problem.message} ${problem.hint ? `(${problem.hint})` : ""}`);
});
stream.addEventListener("error", () => {
  document.body.classList.add("lost");
  say(byId("contact"), "Lost contact with this page’s server; trying again.");
});
setInterval(showContact, 1000);
setInterval(() => {
  for (const [name, found] of rows) if (!found.more.hidden) showLog(name, found);
}, 2000);

const redraw = () => {
  for (const shown of plots.values()) shown.names = "";
  charts.forEach(showChart);
};
window.addEventListener("resize", redraw);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
